// What the measured programs share. Each kind of work prints one figure.
#include <stddef.h>

int files(int argc, char **argv);    // files.c
int floor_of(int argc, char **argv); // floor.c
int network(int argc, char **argv);  // network.c
int relay(int argc, char **argv);    // relay.c
int serve(int argc, char **argv);    // serve.c

int dial(const char *host, int port);			// network.c
int start_listening(const char *address, int port); // serve.c

double now(void); // seconds
double median(double *v, size_t n);
void die(const char *what); // with errno

// The figures of many short batches: a batch that was preempted is one among
// many, and the median does not see it.
struct batches {
	double began, until; // of the work
	double batch;	     // when the current one began
	long size, done;     // calls
	double rate[4096];
	size_t n;
};

void begin_batches(struct batches *b, double seconds);
int next_call(struct batches *b); // 0: the time is up

// The service on each port after the first one given.
enum { HTTP, ECHO, BULK, PORTS };

// A request for bulk: the direction and how many bytes; what is sent up is
// answered by one byte at its end, as not every way has a half-close.
struct bulk {
	char direction[8]; // "up" or "down"
	char size[16];	   // decimal, ends with zero
};
