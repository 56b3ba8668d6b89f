// work is what the bench measures in C, with and without mirrord: see ../ladder.go.
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double median(double *v, size_t n)
{
	if (n == 0) {
		fprintf(stderr, "work: nothing was measured\n");
		exit(1);
	}
	qsort(v, n, sizeof *v, order);
	return v[n / 2];
}

void die(const char *what)
{
	perror(what);
	exit(1);
}

void begin_batches(struct batches *b, double seconds)
{
	memset(b, 0, sizeof *b);
	b->size = 1;
	b->began = b->batch = now();
	b->until = b->began + seconds;
}

int next_call(struct batches *b)
{
	if (b->done++ < b->size)
		return 1;
	double t = now(), took = t - b->batch;
	if (took < 1e-3)
		b->size *= 2; // too short for the clock
	else if (b->n < sizeof b->rate / sizeof *b->rate)
		b->rate[b->n++] = b->size / took;
	b->done = 1;
	b->batch = t;
	return t < b->until;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: work KIND ARGUMENT...\n");
		return 2;
	}
	if (strcmp(argv[1], "serve") == 0)
		return serve(argc, argv);
	if (strcmp(argv[1], "relay") == 0)
		return relay(argc, argv);
	if (strcmp(argv[1], "floor") == 0)
		return floor_of(argc, argv);
	if (strcmp(argv[1], "files") == 0 || strcmp(argv[1], "stat") == 0 || strcmp(argv[1], "stat-p50") == 0 ||
	    strcmp(argv[1], "blocks") == 0 || strcmp(argv[1], "again") == 0 || strcmp(argv[1], "write") == 0 || strcmp(argv[1], "tree") == 0)
		return files(argc, argv);
	return network(argc, argv);
}
