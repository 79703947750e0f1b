/* The #VC path of a guest with encrypted vCPU state: an exit is an exception (vector 29), and its handler passes on what
 * the host may see in the GHCB. Layout: struct ghcb of linux arch/x86/include/asm/svm.h, protocol: AMD 56421. */
#include "x86.h"
#include "confidential.h"
#include "exits.h"

enum {
	GHCB_RAX = 0x1f8, GHCB_RCX = 0x308, GHCB_RDX = 0x310, GHCB_RBX = 0x318, GHCB_EXIT_CODE = 0x390, GHCB_EXIT_INFO_1 = 0x398,
	GHCB_EXIT_INFO_2 = 0x3a0, GHCB_SCRATCH = 0x3a8, GHCB_VALID = 0x3f0, GHCB_BUFFER = 0x800, GHCB_VERSION = 0xffa,
	GHCB_USAGE = 0xffc, PROTOCOL = 2, VALID_BYTES = 16,
};
enum { MSR_GHCB = 0xc0010130, INFO_MASK = 0xfff, SEV_INFO_REQUEST = 0x002, SEV_INFO = 0x001, REGISTER = 0x012, REGISTERED = 0x013 };
enum { MSR_WRITE = 1, PCD_TICKS_PER_S = 66, RFLAGS_IF = 0x200 };
#define TIMER_MMIO 0xfed40ff8ull
#define FAILED (~0ull)

static struct vc {
	uint8_t *ghcb;
	volatile uint32_t depth;
	bool in_timer;
	struct answer answer;
} vcs[ARCH_MAX_CPUS];

static void put(uint8_t *ghcb, uint32_t field, uint64_t value)
{
	memcpy(ghcb + field, &value, sizeof value);
	ghcb[GHCB_VALID + field / 64] |= (uint8_t)(1u << field / 8 % 8);
}

static uint64_t get(const uint8_t *ghcb, uint32_t field)
{
	uint64_t value;

	memcpy(&value, ghcb + field, sizeof value);
	return value;
}

static void begin(uint8_t *ghcb, uint64_t code, uint64_t info_1, uint64_t info_2)
{
	static const uint16_t version = PROTOCOL;

	memset(ghcb + GHCB_VALID, 0, VALID_BYTES);
	put(ghcb, GHCB_EXIT_CODE, code);
	put(ghcb, GHCB_EXIT_INFO_1, info_1);
	put(ghcb, GHCB_EXIT_INFO_2, info_2);
	memcpy(ghcb + GHCB_VERSION, &version, sizeof version);
	memset(ghcb + GHCB_USAGE, 0, 4);
}

/* What VMGEXIT does, and then what the host writes into the page: by what the page says, not by what was meant. */
static bool vmgexit(struct cpu *cpu, struct vc *vc)
{
	static const struct registers none;
	uint64_t code, size;

	hypercall(cpu, OP_VMGEXIT, &none, &vc->answer);
	if (vc->answer.flags & HYPERCALL_ERROR) {
		count(COUNT_GHCB_ERRORS);
		return false;
	}
	code = get(vc->ghcb, GHCB_EXIT_CODE);
	size = get(vc->ghcb, GHCB_EXIT_INFO_2);
	if (code == EXIT_MMIO_READ)
		memcpy(vc->ghcb + GHCB_BUFFER, &vc->answer.value, size < 8 ? size : 8);
	else
		put(vc->ghcb, GHCB_RAX, vc->answer.value);
	return true;
}

/* The PCD protocol raises and restores the task priority, and so lets interrupts in. */
static void ask_for_mask(struct cpu *cpu, const struct vc *vc)
{
	volatile uint64_t *beats = &heartbeat->cpu[cpu->index].beats;
	uint64_t before = *beats, start = arch_ticks();
	static uint64_t patience;

	if (!has_fault(FAULT_VC_ENABLES_INTERRUPTS))
		return;
	if (!patience)
		patience = arch_ticks_per_s() / PCD_TICKS_PER_S;
	arch_irq_on();
	while (!vc->in_timer && *beats == before && arch_ticks() - start < patience)
		arch_relax();
	arch_irq_off();
}

static uint64_t mmio_read(struct cpu *cpu, struct vc *vc, uint64_t gpa, uint32_t size)
{
	uint64_t value = 0;

	begin(vc->ghcb, EXIT_MMIO_READ, gpa, size);
	put(vc->ghcb, GHCB_SCRATCH, (uint64_t)vc->ghcb + GHCB_BUFFER);
	ask_for_mask(cpu, vc);
	if (!arch_tables_shared(gpa)) {
		console_line("MMIO using encrypted memory: %x", gpa);
		return FAILED;
	}
	if (!vmgexit(cpu, vc))
		return FAILED;
	memcpy(&value, vc->ghcb + GHCB_BUFFER, size);
	return value;
}

static uint64_t vmmcall(struct cpu *cpu, struct vc *vc, const struct frame *frame)
{
	begin(vc->ghcb, EXIT_VMMCALL, 0, 0);
	put(vc->ghcb, GHCB_RAX, frame->rax);
	if (!has_fault(FAULT_VC_DROPS_REGISTERS)) {
		put(vc->ghcb, GHCB_RBX, frame->rbx);
		put(vc->ghcb, GHCB_RCX, frame->rcx);
		put(vc->ghcb, GHCB_RDX, frame->rdx);
	}
	return vmgexit(cpu, vc) ? get(vc->ghcb, GHCB_RAX) : FAILED;
}

static uint64_t msr_write(struct cpu *cpu, struct vc *vc, const struct frame *frame)
{
	begin(vc->ghcb, EXIT_MSR, MSR_WRITE, 0);
	put(vc->ghcb, GHCB_RCX, frame->rcx);
	put(vc->ghcb, GHCB_RAX, frame->rax);
	put(vc->ghcb, GHCB_RDX, frame->rdx);
	return vmgexit(cpu, vc) ? 0 : FAILED;
}

static uint64_t reset_hold(struct cpu *cpu, struct vc *vc)
{
	begin(vc->ghcb, EXIT_AP_RESET_HOLD, 0, 0);
	return vmgexit(cpu, vc) ? 0 : FAILED;
}

static uint64_t dispatch(struct cpu *cpu, struct vc *vc, const struct frame *frame)
{
	switch (frame->r11) {
	case EXIT_VMMCALL:
		return vmmcall(cpu, vc, frame);
	case EXIT_MSR:
		return msr_write(cpu, vc, frame);
	case EXIT_MMIO_READ:
		return mmio_read(cpu, vc, frame->rdi, (uint32_t)frame->rsi);
	case EXIT_AP_RESET_HOLD:
		return reset_hold(cpu, vc);
	default:
		return FAILED;
	}
}

void vc_handle(struct cpu *cpu, struct frame *frame)
{
	struct vc *vc = &vcs[cpu->index];
	uint64_t flags;

	__asm__ volatile("pushfq; pop %0" : "=r"(flags));
	count(COUNT_VC_ENTRIES);
	if (flags & RFLAGS_IF)
		count(COUNT_VC_INTERRUPTS_ON);
	if (vc->depth++)
		count(COUNT_VC_NESTED);
	frame->rax = vc->ghcb ? dispatch(cpu, vc, frame) : FAILED;
	frame->rcx = vc->answer.extra;
	frame->rdx = vc->answer.flags;
	vc->depth--;
}

/* Any interrupt that comes in amid the handler: nobody may have let it in. */
void vc_interrupted(struct cpu *cpu, const struct frame *frame)
{
	struct vc *vc = &vcs[cpu->index];
	uint64_t value;

	if (!vc->depth || frame->vector < 32)
		return;
	count(COUNT_VC_INTERRUPTS_ON);
	if (frame->vector != VECTOR_TIMER || vc->in_timer)
		return;
	/* The timer's handler has MMIO of its own: with one GHCB per vCPU it overwrites what the outer one has put there. */
	vc->in_timer = true;
	arch_vc_read_mmio(cpu, TIMER_MMIO, 4, &value);
	vc->in_timer = false;
}

/* The MSR protocol: GHCB MSR, VMGEXIT, GHCB MSR. Not intercepted, so no #VC. */
static uint64_t msr_protocol(struct cpu *cpu, uint64_t request)
{
	struct registers write = { .rcx = MSR_GHCB, .rax = request }, none = { 0 };
	struct answer answer;

	hypercall(cpu, OP_WRMSR, &write, &answer);
	hypercall(cpu, OP_VMGEXIT, &none, &answer);
	return answer.value;
}

bool arch_ghcb_register(struct cpu *cpu, uint64_t gpa)
{
	struct registers use = { .rcx = MSR_GHCB, .rax = gpa };
	struct answer answer;

	if ((msr_protocol(cpu, SEV_INFO_REQUEST) & INFO_MASK) != SEV_INFO)
		return false;
	if (msr_protocol(cpu, gpa | REGISTER) != (gpa | REGISTERED))
		return false;
	hypercall(cpu, OP_WRMSR, &use, &answer);
	memset((void *)gpa, 0, PAGE_SIZE);
	vcs[cpu->index].ghcb = (uint8_t *)gpa;
	cvm_page->cpu[cpu->index].ghcb = gpa;
	return !answer.value;
}
