/* vCPU canaries of aarch64: values derived from the seed, or remembered where the machine needs its own. Register ids are
 * those of PROTOCOL.md. */
#include "canary_system.h"

enum { ID_GPR = 256, ID_PSTATE = 288, ID_FPCR = 296, ID_FPSR, ID_SIMD = 320, GPRS = 32, SP = 31, SIMDS = 32, SIMD_BYTES = 16 };
#define PSTATE_FLAGS 0xf0000000ull
#define FPCR_FREE 0x07c00000ull        /* AHP, DN, FZ, RMode; no traps */
#define FPSR_FREE 0x0800009full        /* QC and the cumulative exception bits */

struct live {
	uint64_t saved_sp, fpcr, fpsr, nzcv;
	uint64_t gpr[GPRS];
	uint8_t simd[SIMDS][SIMD_BYTES];
} __attribute__((aligned(16)));
_Static_assert(__builtin_offsetof(struct live, fpcr) == CANARY_FPCR, "arm.h");
_Static_assert(__builtin_offsetof(struct live, nzcv) == CANARY_NZCV, "arm.h");
_Static_assert(__builtin_offsetof(struct live, gpr) == CANARY_GPR, "arm.h");
_Static_assert(__builtin_offsetof(struct live, simd) == CANARY_SIMD, "arm.h");

void canary_enter(struct live *live);
void canary_store(struct live *live);
extern char canary_spin[], canary_return[];

static struct live loaded[ARCH_MAX_CPUS], found[ARCH_MAX_CPUS];
static uint64_t found_pstate[ARCH_MAX_CPUS];

static uint64_t draw(uint64_t seed, unsigned cpu, unsigned id)
{
	return pattern_key((uint64_t)id << 12, cpu, seed);
}

static void draw_live(struct live *live, uint64_t seed, unsigned cpu)
{
	live->fpcr = draw(seed, cpu, ID_FPCR) & FPCR_FREE;
	live->fpsr = draw(seed, cpu, ID_FPSR) & FPSR_FREE;
	live->nzcv = draw(seed, cpu, ID_PSTATE) & PSTATE_FLAGS;
	for (unsigned i = 0; i < GPRS; i++)
		live->gpr[i] = draw(seed, cpu, ID_GPR + i);
	for (unsigned i = 0; i < SIMDS; i++)
		for (unsigned word = 0; word < SIMD_BYTES / 8; word++) {
			uint64_t value = draw(seed, cpu, ID_SIMD + i + 1024 * (word + 1));

			memcpy(live->simd[i] + 8 * word, &value, sizeof value);
		}
}

/* Current PSTATE but for what canary_enter() sets: EL1t, interrupts on, the drawn flags. */
static uint64_t wanted_pstate(uint64_t nzcv)
{
	return nzcv | (READ_REGISTER(DAIF) & ~(uint64_t)PSTATE_I) | READ_REGISTER(CurrentEL);
}

static void compare_live(struct cpu *cpu, const struct live *want, const struct live *now)
{
	uint64_t pstate = wanted_pstate(want->nzcv);

	for (unsigned i = 0; i < GPRS; i++)
		canary_compare(cpu, ID_GPR + i, &want->gpr[i], &now->gpr[i], sizeof want->gpr[i]);
	canary_compare(cpu, ID_PSTATE, &pstate, &found_pstate[cpu->index], sizeof pstate);
	canary_compare(cpu, ID_FPCR, &want->fpcr, &now->fpcr, sizeof want->fpcr);
	canary_compare(cpu, ID_FPSR, &want->fpsr, &now->fpsr, sizeof want->fpsr);
	for (unsigned i = 0; i < SIMDS; i++)
		canary_compare(cpu, ID_SIMD + i, want->simd[i], now->simd[i], SIMD_BYTES);
}

void canary_leave(struct cpu *cpu, struct frame *frame)
{
	struct live *now = &found[cpu->index];

	if (frame->elr != (uint64_t)canary_spin)
		return;
	memcpy(now->gpr, frame->x, sizeof frame->x);
	now->gpr[SP] = frame->sp;
	found_pstate[cpu->index] = frame->spsr;
	frame->elr = (uint64_t)canary_return;
	frame->sp = loaded[cpu->index].saved_sp;
	frame->spsr |= PSTATE_I;
}

void arch_canary_spin(struct cpu *cpu, uint64_t seed)
{
	struct live *want = &loaded[cpu->index], *now = &found[cpu->index];
	struct system_values want_system, now_system;

	draw_live(want, seed, cpu->index);
	canary_system_draw(&want_system, seed, cpu->index);
	canary_system_load(&want_system);
	canary_enter(want);
	canary_store(now);
	canary_system_read(&now_system);
	canary_system_restore();
	cpu->canary.checks++;
	compare_live(cpu, want, now);
	canary_system_compare(cpu, &want_system, &now_system);
	arch_irq_on();
}
