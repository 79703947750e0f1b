/* Sources with a line or a register of the distributor: SGIs, the physical timer's PPI, SPIs of the UART and the clock
 * (lines that the guest itself can raise and hold), SPIs and others that are set pending by hand. */
#include "irq_sources.h"
#include "arm.h"

enum { LINE_UART, LINE_CLOCK, LINES };
enum { PL011_MASK = 0x38, PL011_TX = 0x20 };
enum { PL031_DATA = 0x0, PL031_MATCH = 0x4, PL031_MASK = 0x10, PL031_RAW = 0x14, PL031_CLEAR = 0x1c };
enum { TIMER_ON = 1, FIRST_SGI = 2, LAST_SGI = 14 };

static uint32_t intid_of(const struct irq_source *source)
{
	bool has_line = source->kind == IRQ_LEVEL || source->kind == IRQ_EDGE;

	if (source->kind == IRQ_TIMER)
		return machine.physical_timer_intid;
	if (has_line)
		return source->line == LINE_UART ? machine.uart_intid : machine.rtc_intid;
	return source->line;
}

static bool is_fitting(const struct irq_source *source)
{
	switch (source->kind) {
	case IRQ_IPI:
		return source->line >= FIRST_SGI && source->line <= LAST_SGI;
	case IRQ_TIMER:
		return source->from == source->vcpu;
	case IRQ_LEVEL:
	case IRQ_EDGE:
		return source->line < LINES;
	case IRQ_SOFTWARE:
		return source->line >= FIRST_SGI && source->line < INTID_SPECIAL;
	}
	return false;
}

/* The transmitter is always empty: its interrupt comes when it is let. The clock's comes when it matches, which is now. */
static void raise_line(const struct irq_source *source)
{
	if (source->line == LINE_UART) {
		arch_console_put('\r');         /* the first character ever makes it empty "again" */
		write32(machine.uart_gpa + PL011_MASK, PL011_TX);
		return;
	}
	write32(machine.rtc_gpa + PL031_MASK, 1);
	do
		write32(machine.rtc_gpa + PL031_MATCH, read32(machine.rtc_gpa + PL031_DATA));
	while (!(read32(machine.rtc_gpa + PL031_RAW) & 1));
	/* Not the second that it is any more: QEMU's pl031_post_load() fires an alarm of this second once again. */
	write32(machine.rtc_gpa + PL031_MATCH, read32(machine.rtc_gpa + PL031_DATA) - 1);
}

static void lower_line(const struct irq_source *source)
{
	if (source->line == LINE_UART)
		write32(machine.uart_gpa + PL011_MASK, 0);
	else
		write32(machine.rtc_gpa + PL031_CLEAR, 1);
	barrier();
}

static void start_timer(const struct irq_source *source)
{
	/* argument: nanoseconds */
	WRITE_REGISTER(CNTP_CVAL_EL0, arch_ticks() + source->argument * arch_ticks_per_s() / 1000000000);
	WRITE_REGISTER(CNTP_CTL_EL0, TIMER_ON);
	barrier();
}

uint32_t line_program(struct irq_source *source)
{
	if (!is_fitting(source))
		return IRQ_BAD;
	source->arch_number = intid_of(source);
	if (!source->arch_number)
		return IRQ_UNSUPPORTED;
	gic_configure(source->arch_number, source->vcpu, (uint8_t)source->priority,
		      source->kind == IRQ_EDGE || source->kind == IRQ_SOFTWARE);
	gic_enable(source->arch_number, source->vcpu, !(source->flags & IRQ_MASKED));
	return IRQ_OK;
}

void line_trigger(struct irq_source *source)
{
	switch (source->kind) {
	case IRQ_IPI:
		gic_send(source->line, machine.mpidr[source->vcpu]);
		break;
	case IRQ_TIMER:
		start_timer(source);
		break;
	case IRQ_LEVEL:
		raise_line(source);
		break;
	case IRQ_EDGE:                          /* a pulse: only the latch remembers it */
		raise_line(source);
		lower_line(source);
		break;
	case IRQ_SOFTWARE:
		gic_set_pending(source->arch_number, source->vcpu);
		break;
	}
}

/* A level stays up for *argument* deliveries, 0 means 1: until then it is pending anew after each end of interrupt. */
uint8_t line_before_log(struct irq_source *source)
{
	if (source->kind == IRQ_TIMER && source->flags & IRQ_PERIODIC)
		start_timer(source);
	else if (source->kind == IRQ_TIMER)
		WRITE_REGISTER(CNTP_CTL_EL0, 0);
	if (source->kind != IRQ_LEVEL)
		return 0;
	if (source->argument && source->delivered % source->argument)
		return RECORD_ASSERTED;
	lower_line(source);
	return 0;
}

void line_mask(const struct irq_source *source, bool masked)
{
	gic_enable(source->arch_number, source->vcpu, !masked);
}

bool line_is_pending(const struct irq_source *source)
{
	return gic_is_pending(source->arch_number, source->vcpu);
}
