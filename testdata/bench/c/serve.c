// work serve ADDRESS PORT: the servers of all kinds on three ports, until killed.
//
// HTTP and echo share one thread and one epoll; each bulk transfer has a thread.
#include "work.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 26\r\n\r\n"
			     "hello, this is the answer\n";
static char buf[1 << 16]; // of the epoll's thread

static void *bulk(void *arg)
{
	int fd = (int)(long)arg;
	static __thread char block[1 << 18];
	struct bulk b;
	if (recv(fd, &b, sizeof b, MSG_WAITALL) == sizeof b && memchr(b.size, 0, sizeof b.size)) {
		long left = strtol(b.size, NULL, 10);
		int up = strncmp(b.direction, "up", sizeof b.direction) == 0;
		while (left > 0) {
			size_t want = left < (long)sizeof block ? (size_t)left : sizeof block;
			ssize_t n = up ? recv(fd, block, want, 0) : send(fd, block, want, MSG_NOSIGNAL);
			if (n <= 0)
				break;
			left -= n;
		}
		if (up && left == 0)
			send(fd, "k", 1, MSG_NOSIGNAL);
	}
	close(fd);
	return NULL;
}

int start_listening(const char *address, int port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || inet_pton(AF_INET, address, &sa.sin_addr) != 1)
		die(address);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(fd, 1024) < 0)
		die("listen");
	return fd;
}

static void watch(int poll, int fd, int kind)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = (unsigned long)kind << 32 | (unsigned)fd};
	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e) < 0)
		die("epoll_ctl");
}

static void take(int poll, int listener, int kind)
{
	int on = 1, fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (kind != BULK) {
		watch(poll, fd, PORTS + kind);
		return;
	}
	pthread_t thread;
	if (pthread_create(&thread, NULL, bulk, (void *)(long)fd) != 0)
		die("pthread_create");
	pthread_detach(thread);
}

// reply answers what has arrived; a request comes in one piece, as we send it.
static void reply(int fd, int kind)
{
	ssize_t n = recv(fd, buf, sizeof buf - 1, 0);
	if (n <= 0) {
		close(fd);
		return;
	}
	if (kind == ECHO) {
		send(fd, buf, n, MSG_NOSIGNAL);
		return;
	}
	buf[n] = 0;
	send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
	if (strstr(buf, "Connection: close"))
		close(fd);
}

int serve(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: work serve ADDRESS PORT\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	int poll = epoll_create1(0);
	for (int kind = 0; kind < PORTS; kind++)
		watch(poll, start_listening(argv[2], atoi(argv[3]) + kind), kind);
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct epoll_event e[64];
		int n = epoll_wait(poll, e, 64, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			int fd = (int)e[i].data.u64, kind = e[i].data.u64 >> 32;
			if (kind < PORTS)
				take(poll, fd, kind);
			else
				reply(fd, kind - PORTS);
		}
	}
}
