#include "go_asm.h"
#include "textflag.h"

// What is on the stack is the runtime's, which begins next: nothing is put there. Of the
// registers RDX alone means something at a program's beginning, and system calls keep it.
TEXT _rt0_mirrord(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVL $157, AX // prctl
	MOVL $30, DI  // PR_GET_TIMERSLACK
	SYSCALL
	MOVQ AX, ·first(SB)
	MOVL $157, AX
	MOVL $29, DI  // PR_SET_TIMERSLACK
	MOVL $const_late, SI
	SYSCALL
	JMP  _rt0_amd64_linux(SB)
