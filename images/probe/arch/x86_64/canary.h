/* Offsets shared by canary.S and canary.c. */
#define CANARY_SAVED_RSP 0
#define CANARY_YMM 32           /* 16 * 32 */
#define CANARY_FX 544           /* 512, 16-aligned */
#define CANARY_GPR 1056         /* 16 * 8, in the order of the register ids */
#define CANARY_HAS_AVX 1184
