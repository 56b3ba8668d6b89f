package conformance

import (
	"context"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"mirrord/protocol"
)

// gRPC's interop cases pass directly, passed to the pod, stolen, and one after the
// other on a connection of which only one is stolen.
func TestGRPC(t *testing.T) {
	fail := &failing{LoggerV2: grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)}
	grpclog.SetLoggerV2(fail)
	in := agent(t)
	pod, direct, debugged := serveGRPC(t), serveGRPC(t), serveGRPC(t)
	filtered(t, in, pod.at, protocol.Filter{Header: "^(x-user: alice|x-grpc-test-echo-initial: .*)$"}, debugged.at)
	for _, way := range []struct {
		name, user string
		to         *grpcServer
	}{{"directly", "", direct}, {"passed", "", pod}, {"stolen", "alice", debugged}} {
		t.Run(way.name, func(t *testing.T) {
			at := pod.at
			if way.to == direct {
				at = direct.at
			}
			cc := dialGRPC(t, at, way.user)
			client := testpb.NewTestServiceClient(cc)
			for name, run := range map[string]func(context.Context){
				"empty unary":                 func(ctx context.Context) { interop.DoEmptyUnaryCall(ctx, client) },
				"large unary":                 func(ctx context.Context) { interop.DoLargeUnaryCall(ctx, client) },
				"client streaming":            func(ctx context.Context) { interop.DoClientStreaming(ctx, client) },
				"server streaming":            func(ctx context.Context) { interop.DoServerStreaming(ctx, client) },
				"ping pong":                   func(ctx context.Context) { interop.DoPingPong(ctx, client) },
				"empty stream":                func(ctx context.Context) { interop.DoEmptyStream(ctx, client) },
				"cancel after begin":          func(ctx context.Context) { interop.DoCancelAfterBegin(ctx, client) },
				"cancel after first response": func(ctx context.Context) { interop.DoCancelAfterFirstResponse(ctx, client) },
				"timeout on sleeping server":  func(ctx context.Context) { interop.DoTimeoutOnSleepingServer(ctx, client) },
				"status code and message":     func(ctx context.Context) { interop.DoStatusCodeAndMessage(ctx, client) },
				"special status message":      func(ctx context.Context) { interop.DoSpecialStatusMessage(ctx, client) },
				"unimplemented method":        func(ctx context.Context) { interop.DoUnimplementedMethod(ctx, cc) },
				"unimplemented service": func(ctx context.Context) {
					interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
				},
				"custom metadata": func(ctx context.Context) { interop.DoCustomMetadata(ctx, client) },
			} {
				t.Run(name, func(t *testing.T) {
					fail.t.Store(t)
					calls, stolen := way.to.calls.Load(), debugged.calls.Load()
					run(t.Context())
					to := way.to
					if name == "custom metadata" && way.to == pod { // which a filter chooses by
						to, calls = debugged, stolen
					}
					// What is not implemented no interceptor sees, and a client that
					// has given up may be before its call.
					switch name {
					case "unimplemented method", "unimplemented service", "timeout on sleeping server", "cancel after begin":
						return
					}
					if to.calls.Load() == calls {
						t.Error("it went to another server")
					}
				})
			}
		})
	}
}

// A grpcServer is the interop cases' server.
type grpcServer struct {
	at    netip.AddrPort
	calls atomic.Int32
}

func serveGRPC(t *testing.T) *grpcServer {
	l := listen(t)
	s := &grpcServer{at: addr(l)}
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			s.calls.Add(1)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			s.calls.Add(1)
			return next(srv, stream)
		}),
	)
	testpb.RegisterTestServiceServer(srv, interop.NewTestServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return s
}

// dialGRPC connects a client that says with each call whose it is.
func dialGRPC(t *testing.T, at netip.AddrPort, user string) *grpc.ClientConn {
	t.Helper()
	as := func(ctx context.Context) context.Context {
		if user == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, "x-user", user)
	}
	cc, err := grpc.NewClient("passthrough:///"+at.String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return call(as(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(as(ctx), desc, cc, method, opts...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// The cases end the process where they fail, by gRPC's logger. With this one they
// end their test.
type failing struct {
	grpclog.LoggerV2
	t atomic.Pointer[testing.T]
}

func (f *failing) Fatalln(args ...any) { f.t.Load().Fatal(args...) }
