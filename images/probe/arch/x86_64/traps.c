/* Descriptor tables, and where interrupts and faults go. Every vector has a stack of its own kind (IST), so a handler
 * never trusts the interrupted rsp: canaries may have put anything there. */
#include "x86.h"
#include "confidential.h"
#include "irq_x86.h"

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
};

extern char trap_stubs[];
struct x86_cpu x86_cpus[ARCH_MAX_CPUS];
uint8_t stacks[ARCH_MAX_CPUS][STACKS][STACK_BYTES] __attribute__((aligned(8192)));
static struct gate idt[256];

void traps_init(void)
{
	for (unsigned vector = 0; vector < 256; vector++) {
		uint64_t stub = (uint64_t)trap_stubs + vector * 16;
		/* #VC stays on the stack it came on: a handler that is interrupted may be entered again. */
		uint8_t ist = vector == VECTOR_VC ? 0 : vector == 8 ? IST_DOUBLE_FAULT : vector == VECTOR_NMI ? IST_NMI : vector < 32 ? IST_FAULT : IST_IRQ;

		idt[vector] = (struct gate){
			.offset_low = (uint16_t)stub, .offset_mid = (uint16_t)(stub >> 16), .offset_high = (uint32_t)(stub >> 32),
			.selector = SELECTOR_CODE, .ist = ist, .type = 0x8e,
		};
	}
}

void traps_load(unsigned index)
{
	struct x86_cpu *x86 = &x86_cpus[index];
	uint64_t base = (uint64_t)&x86->tss;
	struct table_register gdtr = { sizeof x86->gdt - 1, (uint64_t)x86->gdt };
	struct table_register idtr = { sizeof idt - 1, (uint64_t)idt };

	for (unsigned i = 0; i < STACKS; i++)
		*(struct cpu **)stacks[index][i] = &cpus[index];
	for (unsigned i = IST_DOUBLE_FAULT; i < STACKS; i++)
		x86->tss.ist[i - 1] = (uint64_t)stacks[index][i] + STACK_BYTES;
	x86->tss.io_map = sizeof x86->tss;
	x86->gdt[1] = 0x00af9b000000ffffull;
	x86->gdt[2] = 0x00cf93000000ffffull;
	x86->gdt[3] = (sizeof x86->tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	x86->gdt[4] = base >> 32;
	__asm__ volatile("lgdt %0; lidt %1" : : "m"(gdtr), "m"(idtr));
	__asm__ volatile("ltr %w0" : : "r"(SELECTOR_TSS));
}

struct cpu *arch_this_cpu(void)
{
	return *(struct cpu **)((uint64_t)__builtin_frame_address(0) & ~(uint64_t)(STACK_BYTES - 1));
}

static volatile bool stopping;

void arch_halt_others(void)
{
	stopping = true;
	/* A processor that nobody has started yet would take the NMI in the firmware's vectors, and run on from there. */
	if (cpu_count > 1)
		lapic_send(0, IPI_ALL_OTHERS | IPI_NMI);
}

static void fault(const struct frame *frame)
{
	struct panic what = { frame->vector, frame->error, frame->rip, READ_REGISTER(cr2), arch_this_cpu()->index };

	if (frame->vector == VECTOR_NMI && stopping)
		arch_halt();
	panic(&what);
}

/* A vector that is nobody else's: a source's, or one that nobody asked for. */
static bool counted(struct cpu *cpu, const struct frame *frame)
{
	const struct irq_source *source;

	if (!irq_is_open || frame->vector >= VECTOR_TIMER)
		return false;
	if (irq_received(cpu, (uint32_t)frame->vector, 0)) {
		source = irq_find((uint32_t)frame->vector, cpu->index);
		if (!irq_defers(source))
			arch_irq_end(source);
		return true;
	}
	irq_spurious(cpu, (uint32_t)frame->vector);
	if (frame->vector >= VECTOR_PIC + 16)
		lapic_eoi();
	else
		pic_eoi((unsigned)frame->vector - VECTOR_PIC);
	return true;
}

void trap(struct frame *frame);
void trap(struct frame *frame)
{
	struct cpu *cpu = arch_this_cpu();

	if (frame->vector == VECTOR_VC)
		return vc_handle(cpu, frame);
	if (frame->vector == VECTOR_NMI && !stopping && irq_is_open && irq_nmi(cpu))
		return;
	if (frame->vector < 32)
		fault(frame);
	if (counted(cpu, frame))
		return;
	if (frame->vector == VECTOR_TIMER) {
		heartbeat_tick(cpu);
		conversions_tick(cpu);
		if (!cpu->index)
			arch_channel_poll();
	}
	if (frame->vector == VECTOR_CHANNEL)
		serial_interrupt();
	if (frame->vector == VECTOR_ERRAND)
		errand_interrupt(cpu);
	vc_interrupted(cpu, frame);
	if (frame->vector != VECTOR_SPURIOUS)
		lapic_eoi();
	if (has_duty(cpu))
		canary_leave(cpu, frame);
}
