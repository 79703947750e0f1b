/* System registers as canaries: drawn where nothing of the probe depends on the value, else remembered. Fields: Arm ARM
 * (DDI 0487), D19; GIC architecture (IHI 0069), 12.2. */
#include "canary_system.h"

enum kind_of_value {
	KEPT, ANY64, ANY32, ADDRESS, ASID, MAIR, PAR, KCTL, TIMER_CTL, CACHE, PRIORITY, BINARY_POINT,
	PMU_KEPT, PMU_ANY64, PMU_SELECT, PMU_USER, PMU_FILTER,
};
#define TTBR_ASID 0xffff000000000000ull
#define PAR_FIELDS 0xff00fffffffff380ull
#define PAR_RES1 0x800ull
#define MAIR_OURS 0xffffull             /* attributes 0 and 1 map everything that the probe uses */

/* id, register, what goes in */
#define DRAWN(X) \
	X(384, TPIDR_EL0, ANY64) X(385, TPIDRRO_EL0, ANY64) X(386, TPIDR_EL1, ANY64) X(387, CONTEXTIDR_EL1, ANY32) \
	X(388, TTBR0_EL1, ASID) X(389, TTBR1_EL1, ASID) X(391, MAIR_EL1, MAIR) X(395, ESR_EL1, ANY32) X(396, FAR_EL1, ANY64) \
	X(397, PAR_EL1, PAR) X(398, CSSELR_EL1, CACHE) X(400, CNTKCTL_EL1, KCTL) X(401, CNTP_CVAL_EL0, ANY64) \
	X(402, CNTP_CTL_EL0, TIMER_CTL) X(416, DBGBVR0_EL1, ADDRESS) X(417, DBGBVR1_EL1, ADDRESS) \
	X(418, DBGWVR0_EL1, ADDRESS) X(419, DBGWVR1_EL1, ADDRESS) X(432, ICC_PMR_EL1, PRIORITY) \
	X(433, ICC_BPR0_EL1, BINARY_POINT) X(434, ICC_BPR1_EL1, BINARY_POINT) X(448, PMSELR_EL0, PMU_SELECT) \
	X(449, PMUSERENR_EL0, PMU_USER) X(450, PMCCNTR_EL0, PMU_ANY64) X(451, PMCCFILTR_EL0, PMU_FILTER)
#define REMEMBERED(X) \
	X(390, TCR_EL1, KEPT) X(392, SCTLR_EL1, KEPT) X(393, VBAR_EL1, KEPT) X(394, CPACR_EL1, KEPT) X(399, MDSCR_EL1, KEPT) \
	X(403, CNTFRQ_EL0, KEPT) X(404, MPIDR_EL1, KEPT) X(420, DBGBCR0_EL1, KEPT) X(421, DBGWCR0_EL1, KEPT) \
	X(435, ICC_CTLR_EL1, KEPT) X(436, ICC_IGRPEN0_EL1, KEPT) X(437, ICC_IGRPEN1_EL1, KEPT) X(438, ICC_SRE_EL1, KEPT) \
	X(452, PMCR_EL0, PMU_KEPT)

#define READER(id, name, kind) \
	static uint64_t read_##name(void) { return READ_REGISTER(name); }
#define WRITER(id, name, kind) \
	static void write_##name(uint64_t value) { WRITE_REGISTER(name, value); }
#define DRAWN_ROW(id, name, kind) { id, kind, read_##name, write_##name },
#define REMEMBERED_ROW(id, name, kind) { id, kind, read_##name, 0 },

DRAWN(READER)
DRAWN(WRITER)
REMEMBERED(READER)

static const struct {
	uint32_t id;
	enum kind_of_value kind;
	uint64_t (*read)(void);
	void (*write)(uint64_t value);
} registers[] = { DRAWN(DRAWN_ROW) REMEMBERED(REMEMBERED_ROW) };
enum { COUNT = sizeof registers / sizeof registers[0] };
_Static_assert(sizeof registers / sizeof registers[0] <= CANARY_SYSTEM_REGISTERS, "canary_system.h");

static bool has_pmu(void)
{
	uint64_t version = READ_REGISTER(ID_AA64DFR0_EL1) >> 8 & 0xf;

	return version && version != 0xf;
}

static bool exists(unsigned i)
{
	return registers[i].kind < PMU_KEPT || has_pmu();
}

static uint64_t sign_extended(uint64_t value, unsigned bits)
{
	return (uint64_t)((int64_t)(value << (64 - bits)) >> (64 - bits));
}

/* A value that the register gives back as it was written, made from a random one. */
static uint64_t value_for(enum kind_of_value kind, uint64_t random, uint64_t now)
{
	switch (kind) {
	case ANY64:
	case PMU_ANY64:
		return random;
	case ANY32:
		return (uint32_t)random;
	case ADDRESS:
		return sign_extended(random, 49) & ~3ull;
	case ASID:
		return (now & ~TTBR_ASID) | (random & 0xff) << 48;
	case MAIR:
		return (random & 0x4444444444440000ull) | (now & MAIR_OURS);    /* normal memory, not cached, or device */
	case PAR:
		return (random & PAR_FIELDS) | PAR_RES1;
	case KCTL:
		return random & 0x3ff;
	case TIMER_CTL:
		return random & 2;              /* masked or not; never enabled */
	case CACHE:
		return random % 2;              /* level 1, data or instruction */
	case PRIORITY:
		return (3 + random % 13) << 4;  /* all let the probe's own interrupts pass */
	case BINARY_POINT:
		return 3 + random % 5;
	case PMU_SELECT:
		return random & 3;
	case PMU_USER:
		return random & 0xf;
	case PMU_FILTER:
		return random & 0xc0000000;
	default:
		return now;
	}
}

void canary_system_read(struct system_values *values)
{
	for (unsigned i = 0; i < COUNT; i++)
		values->at[i] = exists(i) ? registers[i].read() : 0;
}

void canary_system_draw(struct system_values *values, uint64_t seed, unsigned cpu)
{
	canary_system_read(values);
	for (unsigned i = 0; i < COUNT; i++) {
		uint64_t random = pattern_key((uint64_t)registers[i].id << 12, cpu, seed);

		if (exists(i))
			values->at[i] = value_for(registers[i].kind, random, values->at[i]);
	}
}

void canary_system_load(const struct system_values *values)
{
	for (unsigned i = 0; i < COUNT; i++)
		if (registers[i].write && exists(i))
			registers[i].write(values->at[i]);
	barrier();
}

void canary_system_restore(void)
{
	WRITE_REGISTER(ICC_PMR_EL1, ALL_PRIORITIES);
	barrier();
}

void canary_system_compare(struct cpu *cpu, const struct system_values *want, const struct system_values *now)
{
	for (unsigned i = 0; i < COUNT; i++)
		canary_compare(cpu, registers[i].id, &want->at[i], &now->at[i], sizeof want->at[i]);
}
