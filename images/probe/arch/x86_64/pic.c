/* The pair of 8259A (Intel 8259A data sheet) and channel 0 of the 8254, as the PC has wired them. */
#include "x86.h"

enum { MASTER = 0x20, SLAVE = 0xa0, DATA = 1, ICW1_NEEDS_ICW4 = 0x11, ICW4_8086 = 1, CASCADE = 2, EOI = 0x20, READ_IRR = 0x0a };
enum { PIT_CHANNEL_0 = 0x40, PIT_COMMAND = 0x43, PIT_ONE_SHOT = 0x30, PIT_RATE = 0x34, PIT_LONGEST = 0, PIT_IRQ = 0 };

static void initialise(void)
{
	outb(MASTER, ICW1_NEEDS_ICW4);
	outb(SLAVE, ICW1_NEEDS_ICW4);
	outb(MASTER + DATA, VECTOR_PIC);
	outb(SLAVE + DATA, VECTOR_PIC + 8);
	outb(MASTER + DATA, 1 << CASCADE);
	outb(SLAVE + DATA, CASCADE);
	outb(MASTER + DATA, ICW4_8086);
	outb(SLAVE + DATA, ICW4_8086);
	outb(MASTER + DATA, 0xff & ~(1 << CASCADE));
	outb(SLAVE + DATA, 0xff);
}

/* Firmware has left channel 0 ticking. Counted down once, its output stays up and makes no edge any more. QEMU's edge comes
 * a moment after the count is over, so it is waited for; ICW1 makes the 8259A forget it, as those before. */
void pic_init(void)
{
	pit_start(PIT_LONGEST, false);
	initialise();
	pit_start(1, false);
	while (!pic_is_pending(PIT_IRQ))
		arch_relax();
	initialise();
}

void pic_mask(unsigned irq, bool masked)
{
	uint16_t port = (irq < 8 ? MASTER : SLAVE) + DATA;
	uint8_t bit = (uint8_t)(1 << irq % 8);

	outb(port, masked ? inb(port) | bit : inb(port) & ~bit);
}

void pic_eoi(unsigned irq)
{
	if (irq >= 8)
		outb(SLAVE, EOI);
	outb(MASTER, EOI);
}

bool pic_is_pending(unsigned irq)
{
	uint16_t port = irq < 8 ? MASTER : SLAVE;

	outb(port, READ_IRR);
	return inb(port) >> irq % 8 & 1;
}

void pit_start(uint16_t count, bool periodic)
{
	outb(PIT_COMMAND, periodic ? PIT_RATE : PIT_ONE_SHOT);
	outb(PIT_CHANNEL_0, (uint8_t)count);
	outb(PIT_CHANNEL_0, (uint8_t)(count >> 8));
}
