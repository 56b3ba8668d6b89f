#include "go_asm.h"
#include "textflag.h"

// As for amd64.
TEXT _rt0_mirrord(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD $167, R8 // prctl
	MOVD $30, R0  // PR_GET_TIMERSLACK
	SVC
	MOVD R0, ·first(SB)
	MOVD $167, R8
	MOVD $29, R0  // PR_SET_TIMERSLACK
	MOVD $const_late, R1
	SVC
	JMP  _rt0_arm64_linux(SB)
