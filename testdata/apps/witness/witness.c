//go:build ignore

/* What main.go says, in C. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	printf("error: %s: %s\n", what, strerror(errno));
	return 1;
}

static const char *show(const struct sockaddr_in *a)
{
	static char text[64];
	snprintf(text, sizeof text, "%s:%d", inet_ntoa(a->sin_addr), ntohs(a->sin_port));
	return text;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	const char *greeting = getenv("SHOP_GREETING");
	printf("env %s\n", greeting ? greeting : "");

	char line[256];
	FILE *f = fopen("/etc/shop/config.yaml", "r");
	if (!f || !fgets(line, sizeof line, f))
		return fail("/etc/shop/config.yaml");
	printf("file %s", line);
	fclose(f);

	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
	int e = getaddrinfo(argv[2], "80", &hints, &found);
	if (e)
		return printf("error: %s: %s\n", argv[2], gai_strerror(e)), 1;
	printf("name %s\n", inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));

	struct sockaddr_in peer;
	socklen_t size = sizeof peer;
	int s = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(s, found->ai_addr, found->ai_addrlen) || getpeername(s, (void *)&peer, &size))
		return fail("connect");
	freeaddrinfo(found);
	dprintf(s, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", argv[2]);
	int status;
	f = fdopen(s, "r");
	if (!f || fscanf(f, "HTTP/%*s %d", &status) != 1)
		return fail("status");
	printf("http %d %s\n", status, show(&peer));
	fclose(f);

	int on = 1, l = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(l, (void *)&at, sizeof at) || listen(l, 5))
		return fail("listen");
	puts("listening");
	size = sizeof peer;
	int c = accept(l, (void *)&peer, &size);
	if (c < 0)
		return fail("accept");
	printf("client %s\n", show(&peer));
	f = fdopen(c, "r");
	while (fgets(line, sizeof line, f) && strcmp(line, "\r\n"))
		;
	dprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nwitness\n");
	fclose(f);
	return 0;
}
