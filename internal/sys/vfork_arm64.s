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

// func rawClone(args *cloneArgs, size uintptr, t *task) (pid uintptr, errno uintptr)
TEXT ·rawClone(SB),NOSPLIT,$0-40
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	t+16(FP), R12
	MOVD	$435, R8 // SYS_clone3
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCC	ok
	MOVD	$-1, R4
	MOVD	R4, pid+24(FP)
	NEG	R0, R0
	MOVD	R0, errno+32(FP)
	RET
ok:
	MOVD	R0, pid+24(FP)
	MOVD	ZR, errno+32(FP)
	RET
child:
	SUB	$32, RSP
	MOVD	R12, 8(RSP)
	BL	·runChild(SB) // does not return
	UNDEF
