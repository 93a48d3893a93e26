#include "textflag.h"

// func rawVfork(args *cloneArgs, size uintptr) (pid uintptr, errno uintptr)
//
// The return address is in the link register, where the child cannot overwrite the parent's.
TEXT ·rawVfork(SB),NOSPLIT,$0-32
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	$435, R8 // SYS_clone3
	SVC
	CMN	$4095, R0
	BCC	ok
	MOVD	$-1, R4
	MOVD	R4, pid+16(FP)
	NEG	R0, R0
	MOVD	R0, errno+24(FP)
	RET
ok:
	MOVD	R0, pid+16(FP)
	MOVD	ZR, errno+24(FP)
	RET
