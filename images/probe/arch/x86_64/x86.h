/* Private to arch/x86_64: instructions, per-vCPU state, and who offers what. */
#ifndef PROBE_X86_H
#define PROBE_X86_H

#include "probe.h"

enum { STACK_BYTES = 8192, IST_DOUBLE_FAULT = 1, IST_NMI, IST_FAULT, IST_IRQ, STACKS };
enum { SELECTOR_CODE = 0x08, SELECTOR_DATA = 0x10, SELECTOR_TSS = 0x18 };
enum { VECTOR_NMI = 2, VECTOR_TIMER = 0xe1, VECTOR_CHANNEL = 0xe2, VECTOR_KICK = 0xe3,
	VECTOR_ERRAND = 0xe4, VECTOR_VC = 29, VECTOR_SPURIOUS = 0xff, VECTOR_PIC = 0x20 };
enum { VECTOR_PENDED = 0x50, VECTORS_PENDED = 8, IOAPIC = 0xff };       /* IOAPIC: instead of a vCPU, in struct interrupts */

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3], reserved1, ist[7], reserved2;
	uint16_t reserved3, io_map;
} __attribute__((packed));

struct x86_cpu {
	uint64_t gdt[5];
	struct tss tss;
	uint32_t apic_id;
};

struct table_register {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

extern struct x86_cpu x86_cpus[ARCH_MAX_CPUS];
extern uint8_t stacks[ARCH_MAX_CPUS][STACKS][STACK_BYTES];

/* acpi.c */
struct machine_tables {
	unsigned cpus;
	uint32_t apic_id[ARCH_MAX_CPUS];
	uint64_t ioapic_gpa;
	uint32_t ioapic_base, channel_gsi;
	uint16_t channel_flags;     /* MADT polarity and trigger */
	uint16_t pm1a_control_port, reset_port;     /* 0: none */
	uint8_t reset_value;
};
extern struct machine_tables tables;
void acpi_read(uint64_t rsdp_gpa);

/* traps.c, paging.c, cpu_setup.c */
void traps_init(void);
void traps_load(unsigned cpu);
void paging_map_ram(void);
void features_enable(void);

/* machine.c: all that lies below it is RAM, even what the firmware keeps for itself; vc.c */
extern uint64_t low_ram_end;
void vc_handle(struct cpu *cpu, struct frame *frame);
void vc_interrupted(struct cpu *cpu, const struct frame *frame);

/* lapic.c, ioapic.c, serial.c, smp.c */
void lapic_init(void);
void lapic_timer_start(void);
void lapic_eoi(void);
uint32_t lapic_id(void);
uint32_t lapic_timer_left_ns(void);
void lapic_interrupts(struct interrupts *list);
void lapic_pend(uint8_t first, unsigned vectors);
void ioapic_interrupts(struct interrupts *list);
enum { LAPIC_TIMER_NS = 10000000 };
void lapic_send(uint32_t apic_id, uint32_t command);
enum { IPI_INIT = 0x4500, IPI_STARTUP = 0x4600, IPI_NMI = 0x4400, IPI_FIXED = 0x4000, IPI_ALL_OTHERS = 0xc0000 };
void lapic_timer_stop(void);
void lapic_timer_arm(uint8_t vector, uint64_t ns, uint32_t is_deadline, bool periodic);
bool lapic_is_pending(uint32_t vector);
void lapic_accept_pic(void);
void lapic_x2apic_on(void);
void ioapic_route(uint32_t gsi, uint8_t vector, uint32_t apic_id, uint16_t flags);
void ioapic_set(uint32_t pin, uint8_t vector, uint32_t apic_id, bool is_level, bool masked);
void ioapic_mask(uint32_t pin, bool masked);
bool ioapic_is_masked(uint32_t pin);
void serial_init(void);
void serial_interrupt(void);
void serial_line(uint16_t port, bool up);
void serial_line_init(uint16_t port);

/* pci.c: slots of bus 0. pic.c: the 8259As and the 8254 */
bool pci_find(uint16_t vendor, uint16_t device, uint32_t *slot);
uint32_t pci_read(uint32_t slot, uint32_t offset);
void pci_write(uint32_t slot, uint32_t offset, uint32_t value);
void pci_write8(uint32_t slot, uint32_t offset, uint8_t value);
void pci_write16(uint32_t slot, uint32_t offset, uint16_t value);
uint64_t pci_memory_bar(uint32_t slot, unsigned bar);
uint16_t pci_io_bar(uint32_t slot, unsigned bar);
uint32_t pci_capability(uint32_t slot, uint8_t id);
void pci_enable(uint32_t slot);
void pic_init(void);
void pic_mask(unsigned irq, bool masked);
void pic_eoi(unsigned irq);
bool pic_is_pending(unsigned irq);
void pit_start(uint16_t count, bool periodic);

/* crash.c */
void triple_fault(void);

/* canary.c */
void canary_leave(struct cpu *cpu, struct frame *frame);

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}
static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}
static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(msr) : "memory");
}
struct cpuid {
	uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid id;

	__asm__ volatile("cpuid" : "=a"(id.a), "=b"(id.b), "=c"(id.c), "=d"(id.d) : "a"(leaf), "c"(subleaf));
	return id;
}
#define READ_REGISTER(name) ({ uint64_t value_; __asm__ volatile("mov %%" #name ", %0" : "=r"(value_)); value_; })
#define WRITE_REGISTER(name, value) __asm__ volatile("mov %0, %%" #name : : "r"((uint64_t)(value)) : "memory")

#endif
