/* A guest whose memory is protected (kernel command line "cvm="). Without that word nothing here does anything. */
#ifndef PROBE_CONFIDENTIAL_H
#define PROBE_CONFIDENTIAL_H

#include "probe.h"

#define SHARED_SEED 0x5348415245442121ull       /* pattern of a shared page: the seed of FILL ^ this */

/* settings.c: words of the kernel command line. */
enum { CVM_NONE, CVM_SEV, CVM_ES };
enum {
	FAULT_VC_ENABLES_INTERRUPTS = 1 << 0, FAULT_UNALIGNED_UNDERCOUNT = 1 << 1, FAULT_SEC_GHCB_UNREPORTED = 1 << 2,
	FAULT_VC_DROPS_REGISTERS = 1 << 3, FAULT_ASSERT_WITHOUT_FEATURE = 1 << 4, FAULT_VARIABLE_MISSING = 1 << 5,
	FAULT_FLASH0_SHARED = 1 << 6, FAULT_KEXEC_KEEPS_RANGES = 1 << 7, FAULT_RETRY_IGNORED = 1 << 8,
	FAULT_REUSES_UNCONVERTED = 1 << 9,
};
struct settings {
	uint32_t kind, faults;
	uint64_t cbit_mask;
	bool hold;
};
extern struct settings cvm;
void settings_read(const char *line);
static inline bool has_fault(uint32_t fault) { return cvm.faults & fault; }

/* hypercall.c: one exchange with the host, from any vCPU, interrupts on or off. Frames in PROTOCOL.md. */
enum { OP_HELLO = 1, OP_VMMCALL, OP_WRMSR, OP_RDMSR, OP_VMGEXIT };
enum { HYPERCALL_RETRY = 1, HYPERCALL_ERROR = 2 };
struct registers {
	uint64_t rax, rbx, rcx, rdx;
};
struct answer {
	uint64_t value, extra;
	uint32_t flags;
};
bool hypercall_init(void);                          /* false: nobody is at the other end */
void hypercall(struct cpu *cpu, uint8_t op, const struct registers *registers, struct answer *answer);

/* arch/<arch>/kvm.c: a real KVM, which answers where no software platform does. */
enum kvm_call { KVM_NONE, KVM_VMCALL, KVM_VMMCALL };
struct kvm {
	enum kvm_call call;                             /* KVM_NONE: there is none */
	uint32_t features;                              /* EAX of leaf 0x40000001 */
};
struct kvm arch_kvm_find(void);
uint64_t arch_kvm_call(enum kvm_call how, const struct registers *registers);  /* RAX of the answer */
uint64_t arch_kvm_set_msr(uint32_t msr, uint64_t value);                       /* what it reads as then */

/* sleepers.c: vCPUs that wait for a lock, asleep until they are kicked, or until the next timer interrupt at the latest. */
void sleepers_add(uint32_t *mask, unsigned cpu);
void sleepers_remove(uint32_t *mask, unsigned cpu);
void sleepers_wake(uint32_t *mask, unsigned most);
void turn_take(struct cpu *cpu);                    /* around a conversion's call, interrupts on */
void turn_give(void);
void ledger_wait(void);                             /* somebody has this page for long */
void ledger_wake(void);

/* cvm.c: the page that the host reads, the phases of the boot, the handshake about migration. */
enum { PHASE_FIRMWARE = 1, PHASE_KERNEL = 2 };
enum { VARIABLE_UNSET = 0, VARIABLE_FALSE = 1, VARIABLE_TRUE = 2 };
enum { FEATURE_MAP_GPA_RANGE = 1 << 16, FEATURE_MIGRATION_CONTROL = 1 << 17 };
enum counter {
	COUNT_TO_SHARED, COUNT_TO_PRIVATE, COUNT_FAILED, COUNT_RETRIED, COUNT_STALE_BACKING, COUNT_VC_ENTRIES, COUNT_VC_NESTED,
	COUNT_VC_INTERRUPTS_ON, COUNT_MMIO_OK, COUNT_MMIO_BAD, COUNT_GHCB_ERRORS, COUNT_IPIS_SENT, COUNT_IPIS_GOT, COUNTERS
};
enum { MAX_LEAKED = 16 };
enum step { STEP_NONE, STEP_BEGUN, STEP_TABLES_CHANGED, STEP_HYPERCALL_DONE, STEP_REWRITING };
struct cvm_cpu {
	volatile uint64_t start, end;
	volatile uint32_t to_private, step;
	volatile uint64_t ghcb, hypercalls, reserved[3];
};
struct cvm_page {
	uint64_t magic;
	uint32_t layout, phase;
	uint64_t root, cbit_mask;
	uint32_t kernel, features, variable, is_es;
	uint64_t ready;
	uint32_t cpus, leaks;
	uint64_t counters[COUNTERS];
	uint64_t online_mask, decrypted_start, decrypted_end, firmware_ghcb, reserved[7];
	struct range leaked[MAX_LEAKED];
	struct cvm_cpu cpu[ARCH_MAX_CPUS];
};
_Static_assert(__builtin_offsetof(struct cvm_page, leaked) == 256, "PROTOCOL.md");
_Static_assert(__builtin_offsetof(struct cvm_page, cpu) == 512, "PROTOCOL.md");
_Static_assert(sizeof(struct cvm_cpu) == 64, "PROTOCOL.md");
extern struct cvm_page *cvm_page;
void cvm_take_memory(void);
void cvm_firmware(void);
void cvm_kernel_begin(void);                        /* the ranges are told to the host */
void cvm_kernel_end(void);                          /* all vCPUs run: READY */
void cvm_cpu_init(struct cpu *cpu);                 /* on that vCPU, before it does anything else */
void cvm_cpu_leave(struct cpu *cpu);                /* on that vCPU: it stops being this kernel's */
void count(enum counter counter);
uint64_t guest_map_gpa_range(struct cpu *cpu, const struct registers *registers, struct answer *answer);
uint64_t guest_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value);  /* its value then */
uint64_t view_seed(uint64_t gpa);                   /* the pattern's seed for this page through its present mapping */
uint64_t mix64(uint64_t x);

/* convert.c */
enum { CONVERT_PRIVATE = 1, CONVERT_HYPERCALL_FIRST = 2 };
enum convert_status { CONVERT_OK, CONVERT_REFUSED, CONVERT_NOT_MANAGED, CONVERT_LEAKED };
enum convert_status convert(struct cpu *cpu, uint64_t gpa, uint64_t bytes, uint32_t flags, uint64_t *result);
uint64_t tell_range(struct cpu *cpu, uint64_t start, uint64_t pages, bool private, uint64_t *scramble, uint64_t *done);

/* leaked.c */
bool leaked_any(uint64_t start, uint64_t end);
void leaked_add(uint64_t start, uint64_t end);

/* conversions.c: conversions as a workload. */
void conversions_start(uint32_t mask, uint64_t seed, uint32_t per_tick, uint32_t shapes, uint64_t window);
uint64_t conversions_stop(void);                    /* how many were done */
bool conversions_are_due(const struct cpu *cpu);
bool conversions_run(void);
void conversions_slice(struct cpu *cpu);
void conversions_tick(struct cpu *cpu);
void conversions_leave(struct cpu *cpu);

/* hotplug.c; masks of those that are online afterwards */
uint32_t cpus_offline(uint32_t mask);
uint32_t cpus_online(uint32_t mask);
void kexec(void);

/* errands.c */
struct errand {
	uint32_t mmio_ok, mmio_bad, ipi_ok;
};
void errands_run(uint32_t reads);
const struct errand *errand_of(unsigned cpu);
void errand_interrupt(struct cpu *cpu);

/* cvm_commands.c */
uint32_t cvm_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply);
void cvm_command_finish(uint16_t code);

/* main.c */
void enter_kernel(void);

/* What the architecture gives; weak.c has what an architecture without protection does. */
uint64_t arch_irq_save(void);
bool arch_irq_was_on(uint64_t flags);
void arch_irq_restore(uint64_t flags);
bool arch_hypercall_open(void);                     /* false: no such port, so no software platform */
void arch_hypercall_put(const void *bytes, size_t size);
int arch_hypercall_get(void);                       /* -1: nothing there */
uint64_t arch_tables_root(void);
void arch_tables_take_memory(void);
void arch_tables_protect(void);                     /* everything that is RAM becomes private */
bool arch_tables_shared(uint64_t gpa);
bool arch_tables_changed(uint64_t gpa);             /* by arch_tables_set, and not settled yet */
void arch_tables_set(uint64_t start, uint64_t end, bool private);
void arch_tables_undo(uint64_t start, uint64_t end);
void arch_tables_settle(uint64_t start, uint64_t end);
void arch_tables_walk(void (*shared)(void *state, uint64_t start, uint64_t end), void *state);
void arch_tables_have_changed(void);
void arch_tables_catch_up(void);                    /* before the calling vCPU uses a translation again */
void arch_errand_send(unsigned cpu);
bool arch_ghcb_register(struct cpu *cpu, uint64_t gpa);
uint64_t arch_vc_vmmcall(struct cpu *cpu, const struct registers *registers, struct answer *answer);
void arch_vc_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value);
bool arch_vc_read_mmio(struct cpu *cpu, uint64_t gpa, uint32_t size, uint64_t *value);
void arch_vc_reset_hold(struct cpu *cpu);
void arch_cpu_park(struct cpu *cpu);                /* on that vCPU; only arch_cpu_wake() brings it back */
bool arch_cpu_wake(unsigned cpu);
void arch_kexec(void);                              /* returns where there is no such thing */

#endif
