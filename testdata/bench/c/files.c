// Work on files.
//
//	work blocks FILE SIZE      read a file in blocks; MB/s
//	work again FILE SIZE       the same, of a file that was read before
//	work write FILE SIZE N     write N blocks to a new file, and close it; MB/s
//	work tree DIR              list all directories and read all files; ms
//	work files DIR N SECONDS [warm]  open, read and close DIR/0 to DIR/N-1; files/s
//	work stat DIR N SECONDS [warm]   stat them; calls/s
//	work stat-p50 FILE SECONDS [HOST PORT]  the median stat; µs; beside a transfer from a server
#include "work.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char buf[1 << 20];

static double to_end(const char *path, int fd, size_t size)
{
	double total = 0;
	for (;;) {
		ssize_t n = read(fd, buf, size);
		if (n < 0)
			die(path);
		if (n == 0)
			return total;
		total += n;
	}
}

static void blocks(const char *path, size_t size, int again)
{
	double began = now(), total;
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	total = to_end(path, fd, size);
	if (again) {
		if (lseek(fd, 0, SEEK_SET) < 0)
			die(path);
		began = now();
		total = to_end(path, fd, size);
	}
	close(fd);
	printf("%f\n", total / 1e6 / (now() - began));
}

static void written(const char *path, size_t size, long n)
{
	double began = now();
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		die(path);
	for (long i = 0; i < n; i++)
		if (write(fd, buf, size) != (ssize_t)size)
			die(path);
	if (close(fd) < 0)
		die(path);
	printf("%f\n", size * n / 1e6 / (now() - began));
}

static void small(const char *path)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	if (read(fd, buf, sizeof buf) <= 0)
		die(path);
	close(fd);
}

static void tree(const char *dir)
{
	char path[4096];
	DIR *d = opendir(dir);
	if (d == NULL)
		die(dir);
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		if (e->d_type == DT_DIR)
			tree(path);
		else
			small(path);
	}
	closedir(d);
}

static void stated(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		die(path);
}

// each calls do_one for the files of a directory, at most once for each or,
// after one pass that does not count, again and again.
static void each(const char *dir, int n, double seconds, int warm, void (*do_one)(const char *))
{
	static struct batches b;
	char path[4096];
	for (int i = 0; warm && i < n; i++) {
		snprintf(path, sizeof path, "%s/%d", dir, i);
		do_one(path);
	}
	begin_batches(&b, seconds);
	for (int i = 0; (warm || i < n) && next_call(&b); i++) {
		snprintf(path, sizeof path, "%s/%d", dir, i % n);
		do_one(path);
	}
	printf("%f\n", median(b.rate, b.n));
}

static void stat_p50(const char *path, double seconds)
{
	static double took[1 << 16];
	size_t n = 0;
	double until = now() + seconds;
	for (double t; n < sizeof took / sizeof *took && (t = now()) < until;) {
		stated(path);
		took[n++] = (now() - t) * 1e6;
	}
	printf("%f\n", median(took, n));
}

// pump starts a transfer without end, and returns its process once it flows.
static pid_t pump(char *host, char *port)
{
	char *argv[] = {"work", "pump", host, port, "1000000000000", NULL}, word;
	int ends[2];
	pid_t pid = -1;
	if (pipe(ends) < 0 || (pid = fork()) < 0)
		die("starting a transfer");
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		exit(network(5, argv));
	}
	close(ends[1]);
	if (read(ends[0], &word, 1) != 1) {
		fprintf(stderr, "work: the transfer did not start\n");
		exit(1);
	}
	return pid; // the pipe stays open: it prints
}

int files(int argc, char **argv)
{
	int again = strcmp(argv[1], "again") == 0;
	if ((again || strcmp(argv[1], "blocks") == 0) && argc == 4) {
		size_t size = strtoul(argv[3], NULL, 10);
		if (size == 0 || size > sizeof buf) {
			fprintf(stderr, "work: blocks of %s bytes\n", argv[3]);
			return 2;
		}
		blocks(argv[2], size, again);
	} else if (strcmp(argv[1], "write") == 0 && argc == 5) {
		size_t size = strtoul(argv[3], NULL, 10);
		if (size == 0 || size > sizeof buf) {
			fprintf(stderr, "work: blocks of %s bytes\n", argv[3]);
			return 2;
		}
		written(argv[2], size, strtol(argv[4], NULL, 10));
	} else if (strcmp(argv[1], "tree") == 0 && argc == 3) {
		double began = now();
		tree(argv[2]);
		printf("%f\n", (now() - began) * 1e3);
	} else if (strcmp(argv[1], "stat-p50") == 0 && (argc == 4 || argc == 6)) {
		pid_t pid = argc == 6 ? pump(argv[4], argv[5]) : 0;
		stat_p50(argv[2], atof(argv[3]));
		if (pid != 0 && (kill(pid, SIGKILL) < 0 || waitpid(pid, NULL, 0) < 0))
			die("ending the transfer");
	} else if (argc >= 5) {
		int warm = argc > 5 && strcmp(argv[5], "warm") == 0;
		each(argv[2], atoi(argv[3]), atof(argv[4]), warm, strcmp(argv[1], "stat") == 0 ? stated : small);
	} else {
		fprintf(stderr, "work: %s needs more arguments\n", argv[1]);
		return 2;
	}
	return 0;
}
