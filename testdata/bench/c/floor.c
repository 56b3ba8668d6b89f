// What the kernel itself takes for hooking a program, whoever hooks it.
#include "work.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS // Linux 6.6
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#endif

static int filter(struct sock_filter *code, unsigned short n, unsigned flags)
{
	struct sock_fprog program = {n, code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("no_new_privs");
	int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (fd < 0)
		die("seccomp");
	return fd;
}

// ended ends this process as its only child has.
static void ended(int signal)
{
	int status;
	(void)signal;
	if (wait(&status) > 0)
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

// supervise reads the path of each call and lets it go on, until the child ends.
static void supervise(int fd)
{
	unsigned long flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
	if (ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) < 0)
		perror("synchronous wake-ups"); // slower, but true
	for (;;) {
		struct seccomp_notif call = {0};
		if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue; // its task has ended
		char path[256];
		struct iovec here = {path, sizeof path}, there = {(void *)call.data.args[1], sizeof path};
		process_vm_readv(call.pid, &here, 1, &there, 1, 0);
		struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
		ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

// floor_of runs a command under a program of one instruction ("allowed"), or
// with its opens trapped by the least supervisor there can be ("trapped").
int floor_of(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	if (strcmp(argv[2], "allowed") == 0) {
		struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
		filter(allow, 1, 0);
	} else {
		struct sock_filter trap[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		int pair[2], fd;
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
			die("socketpair");
		signal(SIGCHLD, ended);
		pid_t child = fork();
		if (child < 0)
			die("fork");
		if (child > 0) {
			int pidfd = syscall(SYS_pidfd_open, child, 0);
			if (read(pair[0], &fd, sizeof fd) != sizeof fd || (fd = syscall(SYS_pidfd_getfd, pidfd, fd, 0)) < 0)
				die("the listener of the child");
			if (write(pair[0], "", 1) != 1)
				die("write");
			supervise(fd);
		}
		fd = filter(trap, 4, SECCOMP_FILTER_FLAG_NEW_LISTENER);
		char taken;
		if (write(pair[1], &fd, sizeof fd) != sizeof fd || read(pair[1], &taken, 1) != 1)
			die("handing over the listener");
		close(fd);
	}
	execv(argv[3], argv + 3);
	die(argv[3]);
	return 1;
}
