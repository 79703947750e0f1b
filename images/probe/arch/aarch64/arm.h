/* Private to arch/aarch64: registers, per-vCPU state, and who offers what. Also read by the assembler files. */
#ifndef PROBE_ARM_H
#define PROBE_ARM_H

#define STACK_SHIFT 13
#define STACK_BYTES (1 << STACK_SHIFT)
#define DAIF_SERROR_FIQ 5       /* immediate of daifset and daifclr: A and F */
#define DAIF_IRQ 2
#define PSTATE_I 0x80              /* in DAIF and SPSR_EL1 */

/* MAIR_EL1: 0 device nGnRE, 1 write-back. Blocks of level 1: accessed, inner shareable, EL1 only; devices never executed. */
#define MAIR_VALUE 0xff04
#define BLOCK_DEVICE 0x0060000000000401
#define BLOCK_NORMAL 0x0040000000000705

/* struct frame, as traps.S builds it */
#define FRAME_BYTES 304
#define FRAME_SP 248
#define FRAME_ELR 256
#define FRAME_SPSR 264

/* struct live, as canary.S reads it */
#define CANARY_SAVED_SP 0
#define CANARY_FPCR 8
#define CANARY_FPSR 16
#define CANARY_NZCV 24
#define CANARY_GPR 32           /* x0-x30, sp */
#define CANARY_SIMD 288         /* v0-v31 */

#ifndef __ASSEMBLER__
#include "probe.h"

struct frame {
	uint64_t x[31], sp, elr, spsr, esr, far, why, pad;
};
_Static_assert(sizeof(struct frame) == FRAME_BYTES, "arm.h");
_Static_assert(__builtin_offsetof(struct frame, sp) == FRAME_SP, "arm.h");

/* What the device tree tells of the machine: fdt_machine.c. */
enum { PCI_SLOTS = 4 };
struct machine {
	unsigned cpus;
	uint64_t mpidr[ARCH_MAX_CPUS];
	uint64_t uart_gpa, distributor_gpa, redistributor_gpa, redistributor_bytes, its_gpa;
	uint64_t ecam_gpa, pio_gpa, mmio_gpa, mmio_bytes;
	uint64_t mmio_used;             /* of what PCI devices may be placed in */
	uint32_t pci_intid[PCI_SLOTS];  /* of pin INTA, by slot modulo 4 */
	uint32_t timer_intid, physical_timer_intid;
	uint64_t rtc_gpa;
	uint32_t uart_intid, rtc_intid;
	bool psci_by_smc;
	uint64_t random;                /* seed from the machine; 0 when there is none */
};
extern struct machine machine;
void machine_read(const void *device_tree);
extern uint64_t arm_boot_el;            /* 1 or 2: where this boot was entered; EL2 is left to EL1 at once */

/* traps.c: one stack for the probe, the one behind it for handlers. Both begin with the vCPU's struct cpu *. */
enum { STACK_MAIN, STACK_HANDLER, STACKS };
extern uint8_t stacks[ARCH_MAX_CPUS][STACKS][STACK_BYTES];
void traps_init(void);

/* gic.c. Group 0 comes as FIQ, which the probe never masks outside of handlers. */
enum { SGI_KICK = 1, SGI_PENDED = 2, SGIS_PENDED = 8, SGI_HALT = 15, DISTRIBUTOR = 0xff, INTID_SPECIAL = 1020, ALL_PRIORITIES = 0xf0 };
void gic_init(void);                    /* distributor, once */
void gic_init_cpu(void);                /* redistributor and CPU interface of the calling vCPU */
void gic_enable_local(uint32_t intid);  /* SGI or PPI of the calling vCPU */
void gic_route(uint32_t intid, uint64_t mpidr);
uint32_t gic_acknowledge(void);
void gic_end(uint32_t intid);
void gic_send(uint32_t sgi, uint64_t mpidr);
void gic_halt_all_others(void);
uint64_t gic_redistributor(unsigned cpu);       /* gpa, once that vCPU has called gic_init_cpu() */
/* SGIs and PPIs (below 32) of any vCPU, and SPIs. */
void gic_configure(uint32_t intid, unsigned cpu, uint8_t priority, bool edge);
void gic_enable(uint32_t intid, unsigned cpu, bool enabled);
void gic_set_pending(uint32_t intid, unsigned cpu);
bool gic_is_pending(uint32_t intid, unsigned cpu);

/* timer.c, paging.c, psci.c, serial.c, pci.c, canary.c */
void timer_start(void);
void timer_stop(void);                  /* no heartbeat until it is started again */
void timer_interrupt(void);
void paging_map_ram(void);
void paging_map_device(uint64_t gpa);
bool psci_start_cpu(uint64_t mpidr, uint64_t context);
void psci_power_off(void);
void psci_reset(void);
void serial_init(void);
uint32_t serial_intid(void);            /* of the channel; 0 when the machine has none */
void serial_interrupt(void);
uint64_t pci_find(uint16_t vendor, uint16_t device, uint32_t *intid);  /* configuration space, 0 for none */
uint64_t pci_place_io(uint64_t config, unsigned bar);                  /* gpa of the ports */
uint64_t pci_place_memory(uint64_t config, unsigned bar);              /* gpa; 0 when there is no room */
uint32_t pci_requester(uint64_t config);
unsigned pci_enable_msix(uint64_t config);                             /* and DMA, which MSIs are; how many vectors, 0 for none */
void canary_leave(struct cpu *cpu, struct frame *frame);

#define READ_REGISTER(name) ({ uint64_t value_; __asm__ volatile("mrs %0, " #name : "=r"(value_)); value_; })
#define WRITE_REGISTER(name, value) __asm__ volatile("msr " #name ", %0" : : "r"((uint64_t)(value)) : "memory")
static inline void barrier(void) { __asm__ volatile("dsb sy; isb" : : : "memory"); }
static inline uint32_t read32(uint64_t gpa)
{
	uint32_t value;

	__asm__ volatile("ldr %w0, [%1]" : "=r"(value) : "r"(gpa) : "memory");
	return value;
}
static inline void write32(uint64_t gpa, uint32_t value) { __asm__ volatile("str %w0, [%1]" : : "r"(value), "r"(gpa) : "memory"); }
static inline void write16(uint64_t gpa, uint16_t value) { __asm__ volatile("strh %w0, [%1]" : : "r"((uint32_t)value), "r"(gpa) : "memory"); }
static inline uint8_t read8(uint64_t gpa)
{
	uint32_t value;

	__asm__ volatile("ldrb %w0, [%1]" : "=r"(value) : "r"(gpa) : "memory");
	return (uint8_t)value;
}
static inline void write8(uint64_t gpa, uint8_t value) { __asm__ volatile("strb %w0, [%1]" : : "r"((uint32_t)value), "r"(gpa) : "memory"); }
static inline uint64_t read64(uint64_t gpa)
{
	uint64_t value;

	__asm__ volatile("ldr %0, [%1]" : "=r"(value) : "r"(gpa) : "memory");
	return value;
}
static inline void write64(uint64_t gpa, uint64_t value) { __asm__ volatile("str %0, [%1]" : : "r"(value), "r"(gpa) : "memory"); }
#endif
#endif
