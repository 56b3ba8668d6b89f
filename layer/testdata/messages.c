// messages sends and receives by the kin of sendmsg: the target's name servers
// are 10.96.0.10 and 10.96.0.11.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHOW(call) do { errno = 0; long r_ = (call); printf("%s: %s\n", #call, r_ < 0 ? strerrorname_np(errno) : "ok"); } while (0)

static char query[] = "\1\2\1\0\0\1\0\0\0\0\0\0\3web\4shop\0\0\1\0\1";
enum { QUERY = sizeof query - 1 };

static struct sockaddr_in at(const char *ip, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_aton(ip, &a.sin_addr);
	return a;
}

static const char *show(const struct sockaddr_in *a)
{
	static char text[32];
	snprintf(text, sizeof text, "%s:%d", inet_ntoa(a->sin_addr), ntohs(a->sin_port));
	return text;
}

static void receive(int u, const char *what, char *into, size_t size)
{
	struct sockaddr_in from;
	char control[64];
	struct iovec data = {into, size};
	struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	long n = recvmsg(u, &m, 0);
	printf("%s: %ld bytes of %s, name of %d, control of %zu, flags %d\n", what, n, show(&from), m.msg_namelen, m.msg_controllen, m.msg_flags);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(30);
	int u = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in one = at("10.96.0.10", 53), two = at("10.96.0.11", 53), from;
	struct iovec halves[] = {{query, 10}, {query + 10, QUERY - 10}};
	struct msghdr m = {.msg_name = &one, .msg_namelen = sizeof one, .msg_iov = halves, .msg_iovlen = 2};
	printf("sendmsg: %ld bytes\n", (long)sendmsg(u, &m, 0));
	char first[512], b[512] = "";
	receive(u, "recvmsg", first, sizeof first);

	sendmsg(u, &m, 0);
	receive(u, "cut", b, 10);

	sendmsg(u, &m, 0);
	struct iovec parts[] = {{b, 12}, {b + 100, 400}};
	struct msghdr r = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = parts, .msg_iovlen = 2};
	long n = recvmsg(u, &r, 0);
	printf("in two buffers: 12 and %ld, as received before: %d\n", n - 12, !memcmp(b, first, 12) && !memcmp(b + 100, first + 12, n - 12));

	int here = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in local = at("127.0.0.1", 0);
	socklen_t size = sizeof local;
	if (bind(here, (void *)&local, size) || getsockname(here, (void *)&local, &size))
		return perror("bind"), 1;
	struct iovec whole = {query, QUERY}, hello = {"hello", 5};
	struct mmsghdr many[] = {
		{.msg_hdr = {.msg_name = &one, .msg_namelen = sizeof one, .msg_iov = &whole, .msg_iovlen = 1}},
		{.msg_hdr = {.msg_name = &two, .msg_namelen = sizeof two, .msg_iov = &whole, .msg_iovlen = 1}},
		{.msg_hdr = {.msg_name = &local, .msg_namelen = sizeof local, .msg_iov = &hello, .msg_iovlen = 1}},
	};
	n = sendmmsg(u, many, 1, 0); // the answers' order is the network's
	struct mmsghdr got[2] = {
		{.msg_hdr = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = parts, .msg_iovlen = 2}},
		{.msg_hdr = {.msg_iov = parts, .msg_iovlen = 2}},
	};
	int back = recvmmsg(u, got, 2, 0, NULL);
	n += sendmmsg(u, many + 1, 2, 0);
	printf("sendmmsg: %ld messages of %u %u %u\n", n, many[0].msg_len, many[1].msg_len, many[2].msg_len);
	printf("recvmmsg: %d message of %u, of %s\n", back, got[0].msg_len, show(&from));
	receive(u, "recvmsg", b, sizeof b);
	size = sizeof from;
	n = recvfrom(here, b, sizeof b, 0, (void *)&from, &size);
	printf("here: %ld bytes of %s\n", n, inet_ntoa(from.sin_addr));

	int c = socket(AF_INET, SOCK_DGRAM, 0);
	struct msghdr plain = {.msg_iov = halves, .msg_iovlen = 2};
	if (connect(c, (void *)&one, sizeof one))
		return perror("connect"), 1;
	n = sendmsg(c, &plain, 0);
	r.msg_name = NULL;
	printf("connected: %ld bytes, %ld back\n", n, (long)recvmsg(c, &r, 0));

	m.msg_iov = (void *)1;
	SHOW(sendmsg(u, &m, 0));
	m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = halves, .msg_iovlen = 1};
	SHOW(recvmsg(u, &m, MSG_DONTWAIT));
	return 0;
}
