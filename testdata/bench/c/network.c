// Work over TCP with a server (serve.c) at HOST, whose first port is PORT.
//
//	work up|down HOST PORT BYTES     one transfer; MB/s
//	work pump HOST PORT BYTES        down, saying "ready" when it flows; MB/s
//	work many HOST PORT SECONDS      HTTP on 32 connections; requests/s
//	work echo HOST PORT SECONDS      a round trip of 64 bytes, p50; µs
//	work kept HOST PORT SECONDS      an HTTP request on one connection, p50; µs
//	work new HOST PORT SECONDS       one with a connection of its own, p50; µs
#include "work.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	CONNECTIONS = 32,
	MOST_NEW = 400, // each leaves a port in TIME_WAIT
};

static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
static const char request_close[] = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
static char block[1 << 18];

int dial(const char *host, int port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || inet_pton(AF_INET, host, &sa.sin_addr) != 1)
		die(host);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
		die("connect");
	return fd;
}

static void send_all(int fd, const void *p, size_t n)
{
	for (ssize_t sent; n > 0; p = (const char *)p + sent, n -= sent)
		if ((sent = send(fd, p, n, MSG_NOSIGNAL)) < 0)
			die("send");
}

static void cut(void)
{
	fprintf(stderr, "work: the connection ended before its time\n");
	exit(1);
}

static void transfer(char **argv)
{
	struct bulk b = {0};
	int up = strcmp(argv[1], "up") == 0, silent = strcmp(argv[1], "pump") != 0;
	long size = atol(argv[4]), left = size;
	int fd = dial(argv[2], atoi(argv[3]) + BULK);
	snprintf(b.direction, sizeof b.direction, "%s", up ? "up" : "down");
	snprintf(b.size, sizeof b.size, "%ld", size);
	double began = now();
	send_all(fd, &b, sizeof b);
	while (left > 0) {
		size_t want = left < (long)sizeof block ? (size_t)left : sizeof block;
		ssize_t n = up ? send(fd, block, want, MSG_NOSIGNAL) : recv(fd, block, want, 0);
		if (n < 0)
			die(argv[1]);
		if (n == 0)
			cut();
		left -= n;
		if (!silent && size - left > 1 << 20) {
			puts("ready");
			fflush(stdout);
			silent = 1;
		}
	}
	if (up && recv(fd, block, 1, 0) != 1)
		cut();
	printf("%f\n", size / 1e6 / (now() - began));
}

// answered reads one answer of HTTP and says how long it was, 0 at the end.
static ssize_t answered(int fd)
{
	ssize_t n = 0;
	for (;;) {
		ssize_t got = recv(fd, block + n, 4096 - n, 0);
		if (got < 0)
			die("recv");
		if (got == 0)
			return 0;
		n += got;
		if (n >= 1 && memmem(block, n, "answer\n", 7))
			return n;
	}
}

static void many(char **argv, double seconds)
{
	static struct batches b;
	int poll = epoll_create1(0);
	for (int i = 0; i < CONNECTIONS; i++) {
		struct epoll_event e = {.events = EPOLLIN, .data.fd = dial(argv[2], atoi(argv[3]) + HTTP)};
		if (epoll_ctl(poll, EPOLL_CTL_ADD, e.data.fd, &e) < 0)
			die("epoll_ctl");
		send_all(e.data.fd, request, sizeof request - 1);
	}
	begin_batches(&b, seconds);
	b.size = 8 * CONNECTIONS; // fewer come in bursts
	for (;;) {
		struct epoll_event e[CONNECTIONS];
		int n = epoll_wait(poll, e, CONNECTIONS, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			if (answered(e[i].data.fd) == 0)
				cut();
			send_all(e[i].data.fd, request, sizeof request - 1);
			if (!next_call(&b)) {
				printf("%f\n", median(b.rate, b.n));
				return;
			}
		}
	}
}

static void exchange(int fd, int kind)
{
	if (kind == ECHO) {
		send_all(fd, block, 64);
		if (recv(fd, block, 64, MSG_WAITALL) != 64)
			cut();
		return;
	}
	send_all(fd, request, sizeof request - 1);
	if (answered(fd) == 0)
		cut();
}

static void latency(char **argv, double seconds)
{
	static double took[1 << 16];
	size_t n = 0, most = sizeof took / sizeof *took;
	int alone = strcmp(argv[1], "new") == 0, kind = strcmp(argv[1], "echo") == 0 ? ECHO : HTTP;
	int fd = alone ? -1 : dial(argv[2], atoi(argv[3]) + kind);
	if (alone)
		most = MOST_NEW;
	else
		for (int i = 0; i < 20; i++)
			exchange(fd, kind); // warm
	double until = now() + seconds;
	for (double t; n < most && (t = now()) < until; took[n++] = (now() - t) * 1e6) {
		if (!alone) {
			exchange(fd, kind);
			continue;
		}
		fd = dial(argv[2], atoi(argv[3]) + HTTP);
		send_all(fd, request_close, sizeof request_close - 1);
		if (answered(fd) == 0)
			cut();
		close(fd);
	}
	printf("%f\n", median(took, n));
}

int network(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "work: no work %s of that form\n", argv[1]);
		return 2;
	}
	if (strcmp(argv[1], "up") == 0 || strcmp(argv[1], "down") == 0 || strcmp(argv[1], "pump") == 0)
		transfer(argv);
	else if (strcmp(argv[1], "many") == 0)
		many(argv, atof(argv[4]));
	else
		latency(argv, atof(argv[4]));
	return 0;
}
