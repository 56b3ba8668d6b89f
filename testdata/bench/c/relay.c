// work relay ADDRESS PORT HOST PORT2: connections to the ports from PORT on go
// to those from PORT2 on, until killed: the least that a hop of a tunnel does.
#include "work.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 1 << 16 };

static int peers[MOST]; // of a connection's descriptor, its other side; 0: none
static char buf[1 << 18];

static void watch(int poll, int fd)
{
	struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e) < 0)
		die("epoll_ctl");
}

static void take(int poll, int listener, const char *host, int port)
{
	int on = 1, one = accept(listener, NULL, NULL);
	if (one < 0)
		return;
	int two = dial(host, port);
	if (one >= MOST || two >= MOST)
		die("too many connections");
	setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	peers[one] = two;
	peers[two] = one;
	watch(poll, one);
	watch(poll, two);
}

// pass moves what has come; nobody here sends both ways at once.
static void pass(int fd)
{
	int to = peers[fd];
	ssize_t n = to ? recv(fd, buf, sizeof buf, MSG_DONTWAIT) : -1;
	if (!to || (n < 0 && errno == EAGAIN))
		return;
	for (ssize_t sent, done = 0; done < n; done += sent)
		if ((sent = send(to, buf + done, n - done, MSG_NOSIGNAL)) < 0)
			n = 0;
	if (n > 0)
		return;
	peers[fd] = peers[to] = 0;
	close(fd);
	close(to);
}

int relay(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: work relay ADDRESS PORT HOST PORT2\n");
		return 2;
	}
	int listeners[PORTS], poll = epoll_create1(0);
	for (int kind = 0; kind < PORTS; kind++)
		watch(poll, listeners[kind] = start_listening(argv[2], atoi(argv[3]) + kind));
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct epoll_event e[64];
		int n = epoll_wait(poll, e, 64, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			int kind = 0;
			while (kind < PORTS && listeners[kind] != e[i].data.fd)
				kind++;
			if (kind < PORTS)
				take(poll, e[i].data.fd, argv[4], atoi(argv[5]) + kind);
			else
				pass(e[i].data.fd);
		}
	}
}
