package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// As c/serve.c serves them.
const (
	echoPort = 8001
	bulkPort = 8002
)

// A rawForward is client-go's own port-forward to a pod, the least that a
// tunnel through the API server costs.
type rawForward struct {
	kubeconfig, namespace, pod string
}

// open opens one connection to a port of the pod.
func (f rawForward) open(port int) (stream httpstream.Stream, closer io.Closer, err error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	cfg.GroupVersion, cfg.APIPath, cfg.NegotiatedSerializer = &corev1.SchemeGroupVersion, "/api", scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, nil, err
	}
	url := client.Post().Resource("pods").Namespace(f.namespace).Name(f.pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, nil, err
	}
	conn, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url).Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, nil, err
	}
	header := http.Header{}
	header.Set(corev1.PortHeader, strconv.Itoa(port))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	errs, err := conn.CreateStream(header)
	if err == nil {
		errs.Close() // nothing is sent in it
		header.Set(corev1.StreamType, corev1.StreamTypeData)
		stream, err = conn.CreateStream(header)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return stream, conn, nil
}

// transfer moves so many bytes up or down, as c/network.c does, and returns MB/s.
func (f rawForward) transfer(direction string, size int) figure {
	return func(ctx context.Context) (float64, error) {
		s, closer, err := f.open(bulkPort)
		if err != nil {
			return 0, fmt.Errorf("opening a port-forward to %s: %w", f.pod, err)
		}
		defer closer.Close()
		defer context.AfterFunc(ctx, func() { closer.Close() })()
		request := make([]byte, 24)
		copy(request, direction)
		copy(request[8:], strconv.Itoa(size))
		began := time.Now()
		if _, err = s.Write(request); err == nil && direction == "down" {
			_, err = io.CopyN(io.Discard, s, int64(size))
		} else if err == nil {
			err = sendUp(s, size)
		}
		if err != nil {
			return 0, fmt.Errorf("sending %s through a port-forward: %w", direction, err)
		}
		return float64(size) / 1e6 / time.Since(began).Seconds(), nil
	}
}

func sendUp(s io.ReadWriter, size int) error {
	block := make([]byte, 64<<10)
	for left := size; left > 0; {
		n, err := s.Write(block[:min(left, len(block))])
		if err != nil {
			return err
		}
		left -= n
	}
	_, err := io.ReadFull(s, block[:1])
	return err
}

// echo is the median round trip of 64 bytes, in µs.
func (f rawForward) echo(d time.Duration) figure {
	return func(ctx context.Context) (float64, error) {
		s, closer, err := f.open(echoPort)
		if err != nil {
			return 0, fmt.Errorf("opening a port-forward to %s: %w", f.pod, err)
		}
		defer closer.Close()
		defer context.AfterFunc(ctx, func() { closer.Close() })()
		var took []float64
		message := make([]byte, 64)
		for until := time.Now().Add(d); time.Now().Before(until); {
			began := time.Now()
			if _, err = s.Write(message); err == nil {
				_, err = io.ReadFull(s, message)
			}
			if err != nil {
				return 0, fmt.Errorf("a round trip through a port-forward: %w", err)
			}
			took = append(took, float64(time.Since(began))/float64(time.Microsecond))
		}
		return median(took), nil
	}
}
