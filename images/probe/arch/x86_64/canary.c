/* vCPU canaries of x86_64: values derived from the seed, or remembered where the machine needs its own. Register ids are
 * those of PROTOCOL.md. */
#include "x86.h"
#include "canary.h"

enum {
	ID_GPR = 0, ID_RFLAGS = 16, ID_YMM = 32, ID_ST = 48, ID_MXCSR = 56, ID_FCW, ID_FSW, ID_FTW, ID_DR0 = 64, ID_DR7 = 71,
	ID_MSR = 80, ID_CR0 = 112, ID_CR2, ID_CR3, ID_CR4, ID_CR8, ID_XCR0, ID_GDTR = 120, ID_IDTR, ID_TR, ID_LDTR, ID_CS, ID_SS,
	ID_DS, ID_ES, ID_FS, ID_GS,
};
enum { FX_FCW = 0, FX_FSW = 2, FX_FTW = 4, FX_MXCSR = 24, FX_ST = 32, FX_XMM = 160, ST_BYTES = 10, CR8_LIMIT = 13 };
enum { RFLAGS_KEPT = 0x200000 | 0x40000 | 0x3000 | 0x600 };    /* ID, AC, IOPL, DF, IF: not touched by a jump */
enum { MSRS = 15, SYSTEMS = 40 };

struct live {
	uint64_t saved_rsp, pad[3];
	uint8_t ymm[16][32];
	uint8_t fx[512];
	uint64_t gpr[16];
	uint32_t has_avx;
} __attribute__((aligned(64)));
_Static_assert(__builtin_offsetof(struct live, ymm) == CANARY_YMM, "canary.h");
_Static_assert(__builtin_offsetof(struct live, fx) == CANARY_FX, "canary.h");
_Static_assert(__builtin_offsetof(struct live, gpr) == CANARY_GPR, "canary.h");
_Static_assert(__builtin_offsetof(struct live, has_avx) == CANARY_HAS_AVX, "canary.h");

struct system_registers {
	uint64_t dr[5], msr[MSRS], cr[6], selector[8];
	struct table_register gdtr, idtr;
	uint64_t rflags;
};

enum kind_of_value { ANY64, ANY32, ANY16, CANONICAL, PAT, KEPT, IF_RDTSCP };
static const struct {
	uint32_t msr;
	enum kind_of_value kind;
} msr_table[MSRS] = {
	{ 0xc0000100, CANONICAL }, { 0xc0000101, CANONICAL }, { 0xc0000102, CANONICAL },        /* FS, GS, KERNEL_GS base */
	{ 0xc0000081, ANY64 }, { 0xc0000082, CANONICAL }, { 0xc0000083, CANONICAL }, { 0xc0000084, ANY32 }, /* STAR ... SFMASK */
	{ 0x174, ANY16 }, { 0x175, CANONICAL }, { 0x176, CANONICAL },                           /* SYSENTER CS, ESP, EIP */
	{ 0x277, PAT }, { 0xc0000103, IF_RDTSCP }, { 0xc0000080, KEPT }, { 0x1b, KEPT },        /* PAT, TSC_AUX, EFER, APIC_BASE */
	{ 0x2ff, KEPT },                                                                        /* MTRR_DEF_TYPE */
};

void canary_enter(struct live *live);
void canary_store(struct live *live);
extern char canary_spin[], canary_return[];

static struct live loaded[ARCH_MAX_CPUS], found[ARCH_MAX_CPUS];
static uint64_t found_rflags[ARCH_MAX_CPUS];

static uint64_t draw(uint64_t seed, unsigned cpu, unsigned id)
{
	return pattern_key((uint64_t)id << 12, cpu, seed);
}

static uint64_t canonical(uint64_t value)
{
	return (uint64_t)((int64_t)(value << 17) >> 17);
}

/* Memory types that exist, and write-back where all our pages look (entry 0). */
static uint64_t pat_value(uint64_t value)
{
	static const uint8_t types[4] = { 0, 1, 4, 6 };
	uint64_t pat = 6;

	for (unsigned i = 1; i < 8; i++)
		pat |= (uint64_t)types[value >> i * 2 & 3] << i * 8;
	return pat;
}

static bool msr_exists(unsigned i)
{
	return msr_table[i].kind != IF_RDTSCP || cpuid(0x80000001, 0).d & 1u << 27;
}

static uint64_t msr_value(unsigned i, uint64_t value)
{
	switch (msr_table[i].kind) {
	case ANY64:
		return value;
	case ANY32:
	case IF_RDTSCP:
		return (uint32_t)value;
	case ANY16:
		return (uint16_t)value;
	case CANONICAL:
		return canonical(value);
	case PAT:
		return pat_value(value);
	default:
		return rdmsr(msr_table[i].msr);
	}
}

static void put16(uint8_t *at, uint16_t value)
{
	memcpy(at, &value, sizeof value);
}

static void draw_fx(uint8_t *fx, uint64_t seed, unsigned cpu)
{
	static const uint8_t precision[4] = { 0, 2, 3, 3 };
	uint64_t control = draw(seed, cpu, ID_FCW), mxcsr = draw(seed, cpu, ID_MXCSR);
	uint32_t mxcsr_value = 0x1f80 | (mxcsr & 0xe040);

	memset(fx, 0, 512);
	put16(fx + FX_FCW, (uint16_t)(0x7f | precision[control & 3] << 8 | (control >> 2 & 3) << 10));
	put16(fx + FX_FSW, (uint16_t)((control >> 4 & 7) << 11));
	fx[FX_FTW] = 0xff;
	memcpy(fx + FX_MXCSR, &mxcsr_value, sizeof mxcsr_value);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t mantissa = draw(seed, cpu, ID_ST + i) | 1ull << 63;

		memcpy(fx + FX_ST + 16 * i, &mantissa, sizeof mantissa);
		put16(fx + FX_ST + 16 * i + 8, (uint16_t)(0x3f00 + i));
	}
}

static void draw_live(struct live *live, uint64_t seed, unsigned cpu)
{
	live->has_avx = !!(cpuid(1, 0).c & 1u << 28);
	draw_fx(live->fx, seed, cpu);
	for (unsigned i = 0; i < 16; i++) {
		live->gpr[i] = draw(seed, cpu, ID_GPR + i);
		for (unsigned word = 0; word < 4; word++) {
			uint64_t value = draw(seed, cpu, ID_YMM + i + 256 * (word + 1));

			memcpy(live->ymm[i] + 8 * word, &value, sizeof value);
		}
		memcpy(live->fx + FX_XMM + 16 * i, live->ymm[i], 16);
	}
}

static void read_selectors(uint64_t *selector)
{
	__asm__ volatile("str %0" : "=r"(selector[0]));
	__asm__ volatile("sldt %0" : "=r"(selector[1]));
	__asm__ volatile("mov %%cs, %0" : "=r"(selector[2]));
	__asm__ volatile("mov %%ss, %0" : "=r"(selector[3]));
	__asm__ volatile("mov %%ds, %0" : "=r"(selector[4]));
	__asm__ volatile("mov %%es, %0" : "=r"(selector[5]));
	__asm__ volatile("mov %%fs, %0" : "=r"(selector[6]));
	__asm__ volatile("mov %%gs, %0" : "=r"(selector[7]));
}

static uint64_t read_xcr0(void)
{
	uint32_t low, high;

	if (!(READ_REGISTER(cr4) & 1u << 18))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

static void read_system(struct system_registers *system)
{
	memset(system, 0, sizeof *system);
	system->dr[0] = READ_REGISTER(dr0);
	system->dr[1] = READ_REGISTER(dr1);
	system->dr[2] = READ_REGISTER(dr2);
	system->dr[3] = READ_REGISTER(dr3);
	system->dr[4] = READ_REGISTER(dr7);
	for (unsigned i = 0; i < MSRS; i++)
		system->msr[i] = msr_exists(i) ? rdmsr(msr_table[i].msr) : 0;
	system->cr[0] = READ_REGISTER(cr0);
	system->cr[1] = READ_REGISTER(cr2);
	system->cr[2] = READ_REGISTER(cr3);
	system->cr[3] = READ_REGISTER(cr4);
	system->cr[4] = READ_REGISTER(cr8);
	system->cr[5] = read_xcr0();
	read_selectors(system->selector);
	__asm__ volatile("sgdt %0; sidt %1" : "=m"(system->gdtr), "=m"(system->idtr));
	system->rflags = 0x202;
}

/* What the registers shall hold: drawn from the seed where free to choose, else as they are. */
static void draw_system(struct system_registers *system, uint64_t seed, unsigned cpu)
{
	read_system(system);
	for (unsigned i = 0; i < 4; i++)
		system->dr[i] = canonical(draw(seed, cpu, ID_DR0 + i));
	system->dr[4] = 0x400 | (draw(seed, cpu, ID_DR7) & 0x5555) << 16;   /* types and lengths; nothing enabled */
	for (unsigned i = 0; i < MSRS; i++)
		if (msr_exists(i))
			system->msr[i] = msr_value(i, draw(seed, cpu, ID_MSR + i));
	system->cr[1] = draw(seed, cpu, ID_CR2);
	system->cr[4] = draw(seed, cpu, ID_CR8) % CR8_LIMIT + 1;
}

static void load_system(const struct system_registers *system)
{
	WRITE_REGISTER(dr0, system->dr[0]);
	WRITE_REGISTER(dr1, system->dr[1]);
	WRITE_REGISTER(dr2, system->dr[2]);
	WRITE_REGISTER(dr3, system->dr[3]);
	WRITE_REGISTER(dr7, system->dr[4]);
	for (unsigned i = 0; i < MSRS; i++)
		if (msr_exists(i) && msr_table[i].kind != KEPT)
			wrmsr(msr_table[i].msr, system->msr[i]);
	WRITE_REGISTER(cr2, system->cr[1]);
	WRITE_REGISTER(cr8, system->cr[4]);
}

static void compare_words(struct cpu *cpu, uint32_t id, const uint64_t *expected, const uint64_t *now, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		canary_compare(cpu, id + i, &expected[i], &now[i], sizeof expected[i]);
}

static void compare_system(struct cpu *cpu, const struct system_registers *want, const struct system_registers *now)
{
	compare_words(cpu, ID_DR0, want->dr, now->dr, 4);
	compare_words(cpu, ID_DR7, want->dr + 4, now->dr + 4, 1);
	compare_words(cpu, ID_MSR, want->msr, now->msr, MSRS);
	compare_words(cpu, ID_CR0, want->cr, now->cr, 6);
	compare_words(cpu, ID_TR, want->selector, now->selector, 8);
	canary_compare(cpu, ID_GDTR, &want->gdtr, &now->gdtr, sizeof want->gdtr);
	canary_compare(cpu, ID_IDTR, &want->idtr, &now->idtr, sizeof want->idtr);
	canary_compare(cpu, ID_RFLAGS, &want->rflags, &now->rflags, sizeof want->rflags);
}

static void compare_live(struct cpu *cpu, const struct live *want, const struct live *now)
{
	compare_words(cpu, ID_GPR, want->gpr, now->gpr, 16);
	for (unsigned i = 0; i < 16; i++)
		if (want->has_avx)
			canary_compare(cpu, ID_YMM + i, want->ymm[i], now->ymm[i], 32);
		else
			canary_compare(cpu, ID_YMM + i, want->fx + FX_XMM + 16 * i, now->fx + FX_XMM + 16 * i, 16);
	for (unsigned i = 0; i < 8; i++)
		canary_compare(cpu, ID_ST + i, want->fx + FX_ST + 16 * i, now->fx + FX_ST + 16 * i, ST_BYTES);
	canary_compare(cpu, ID_MXCSR, want->fx + FX_MXCSR, now->fx + FX_MXCSR, 4);
	canary_compare(cpu, ID_FCW, want->fx + FX_FCW, now->fx + FX_FCW, 2);
	canary_compare(cpu, ID_FSW, want->fx + FX_FSW, now->fx + FX_FSW, 2);
	canary_compare(cpu, ID_FTW, want->fx + FX_FTW, now->fx + FX_FTW, 1);
}

void canary_leave(struct cpu *cpu, struct frame *frame)
{
	struct live *now = &found[cpu->index];
	const uint64_t gpr[16] = {
		frame->rax, frame->rcx, frame->rdx, frame->rbx, frame->rsp, frame->rbp, frame->rsi, frame->rdi,
		frame->r8, frame->r9, frame->r10, frame->r11, frame->r12, frame->r13, frame->r14, frame->r15,
	};

	if (frame->rip != (uint64_t)canary_spin)
		return;
	memcpy(now->gpr, gpr, sizeof gpr);
	found_rflags[cpu->index] = frame->rflags & (RFLAGS_KEPT | 2);
	frame->rip = (uint64_t)canary_return;
	frame->rsp = loaded[cpu->index].saved_rsp;
	frame->rflags &= ~0x200ull;
}

void arch_canary_spin(struct cpu *cpu, uint64_t seed)
{
	struct live *want = &loaded[cpu->index], *now = &found[cpu->index];
	struct system_registers want_system, now_system;

	draw_live(want, seed, cpu->index);
	draw_system(&want_system, seed, cpu->index);
	now->has_avx = want->has_avx;
	load_system(&want_system);
	canary_enter(want);
	canary_store(now);
	read_system(&now_system);
	WRITE_REGISTER(cr8, 0);
	now_system.rflags = found_rflags[cpu->index];
	cpu->canary.checks++;
	compare_live(cpu, want, now);
	compare_system(cpu, &want_system, &now_system);
	arch_irq_on();
}
