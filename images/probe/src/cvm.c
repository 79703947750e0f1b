/* The life of a protected guest: firmware, kernel, what each tells the host, and the page that the host reads. */
#include "confidential.h"

#define CVM_MAGIC 0x31564347494d5643ull        /* "CVMIGCV1" */
#define FLASH0_START 0xffc00000ull              /* where OVMF's code lies, up to 4 GiB */
#define FLASH0_END 0x100000000ull
#define MSR_MIGRATION_CONTROL 0x4b564d08u      /* Documentation/virt/kvm/x86/msr.rst */
enum { HC_MAP_GPA_RANGE = 12, MIGRATION_READY = 1, LAYOUT = 1, ASSERT_VECTOR = 3 };

struct cvm_page *cvm_page;
static bool has_platform;                       /* a software platform has its channel */
static struct kvm kvm;                          /* what is called where there is none; features 0 where nothing is */

void count(enum counter counter)
{
	if (cvm_page)
		__atomic_fetch_add(&cvm_page->counters[counter], 1, __ATOMIC_RELAXED);
}

uint64_t view_seed(uint64_t gpa)
{
	return cvm.kind && arch_tables_shared(gpa) ? pattern_seed ^ SHARED_SEED : pattern_seed;
}

static bool is_es(void)
{
	return cvm.kind == CVM_ES;
}

/* The pages that a kernel shares for as long as it runs lie side by side, as Linux' __bss_decrypted. */
void cvm_take_memory(void)
{
	if (!cvm.kind)
		return;
	cvm_page = memory_take(sizeof *cvm_page);
	*cvm_page = (struct cvm_page){
		.magic = CVM_MAGIC, .layout = LAYOUT, .phase = is_kexec ? PHASE_KERNEL : PHASE_FIRMWARE, .root = arch_tables_root(),
		.cbit_mask = cvm.cbit_mask, .is_es = is_es(), .cpus = 1, .decrypted_start = (uint64_t)heartbeat,
		.decrypted_end = (uint64_t)cvm_page + PAGE_SIZE,
	};
	if (is_es()) {
		cvm_page->decrypted_end = (uint64_t)memory_take(ARCH_MAX_CPUS * PAGE_SIZE) + ARCH_MAX_CPUS * PAGE_SIZE;
		cvm_page->firmware_ghcb = (uint64_t)memory_take(PAGE_SIZE);
	}
	arch_tables_take_memory();
}

uint64_t guest_map_gpa_range(struct cpu *cpu, const struct registers *registers, struct answer *answer)
{
	struct registers call = *registers;

	call.rax = HC_MAP_GPA_RANGE;
	if (is_es()) {
		uint64_t result;

		turn_take(cpu);
		result = arch_vc_vmmcall(cpu, &call, answer);
		turn_give();
		return result;
	}
	if (kvm.call) {
		cvm_page->cpu[cpu->index].hypercalls++;
		*answer = (struct answer){ .value = arch_kvm_call(kvm.call, &call) };
	} else {
		hypercall(cpu, OP_VMMCALL, &call, answer);
	}
	return answer->value;
}

uint64_t guest_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	struct registers call = { .rax = value, .rcx = msr };
	struct answer answer;

	if (kvm.call)
		return arch_kvm_set_msr(msr, value);
	if (is_es())
		arch_vc_write_msr(cpu, msr, value);
	else
		hypercall(cpu, OP_WRMSR, &call, &answer);
	return value;
}

static void write_ready(struct cpu *cpu, uint64_t value)
{
	if (!(cvm_page->features & FEATURE_MIGRATION_CONTROL))
		return;
	cvm_page->ready = guest_write_msr(cpu, MSR_MIGRATION_CONTROL, value);
}

static void share_in_tables(uint64_t start, uint64_t end, bool private)
{
	arch_tables_set(start, end, private);
	arch_tables_settle(start, end);
	arch_tables_have_changed();
}

/* Firmware and early kernel do not look at the result, as OVMF and Linux do not. */
static void tell(uint64_t start, uint64_t end, bool private)
{
	uint64_t scramble, done;

	tell_range(&cpus[0], start, (end - start) / PAGE_SIZE, private, &scramble, &done);
}

static void say_hello(void)
{
	struct registers hello = { .rax = (uint64_t)cvm_page, .rbx = cvm_page->root, .rcx = cvm.cbit_mask };
	struct answer answer;

	if (!has_platform) {
		cvm_page->features = kvm.features & (FEATURE_MAP_GPA_RANGE | FEATURE_MIGRATION_CONTROL);
		return;
	}
	hypercall(&cpus[0], OP_HELLO, &hello, &answer);
	cvm_page->features = (uint32_t)answer.value;
}

static bool offers_migration(void)
{
	uint32_t both = FEATURE_MAP_GPA_RANGE | FEATURE_MIGRATION_CONTROL;

	return (cvm_page->features & both) == both;
}

static void assert_feature(void)
{
	static const struct panic failed = { .vector = ASSERT_VECTOR };

	if (offers_migration() || !has_fault(FAULT_ASSERT_WITHOUT_FEATURE))
		return;
	console_line("ASSERT: the host does not support SEV live migration");
	panic(&failed);
}

static void firmware_ghcb(void)
{
	uint64_t ghcb = cvm_page->firmware_ghcb;

	if (!is_es())
		return;
	share_in_tables(ghcb, ghcb + PAGE_SIZE, false);
	if (!arch_ghcb_register(&cpus[0], ghcb))
		console_line("the host does not take GHCB %x", ghcb);
	if (!has_fault(FAULT_SEC_GHCB_UNREPORTED))
		tell(ghcb, ghcb + PAGE_SIZE, false);
}

void cvm_firmware(void)
{
	if (!cvm.kind)
		return;
	/* A GHCB's call is not made here: an ES guest has none but the software platform to answer it. */
	has_platform = hypercall_init() || is_es();
	if (!has_platform)
		kvm = arch_kvm_find();
	say_hello();
	if (is_kexec)
		return;
	assert_feature();
	firmware_ghcb();
	share_in_tables(cvm_page->decrypted_start, (uint64_t)cvm_page + PAGE_SIZE, false);
	tell(cvm_page->decrypted_start, (uint64_t)cvm_page + PAGE_SIZE, false);
	if (has_fault(FAULT_FLASH0_SHARED))
		tell(FLASH0_START, FLASH0_END, false);
	boot_page.variable = offers_migration() && !has_fault(FAULT_VARIABLE_MISSING) ? VARIABLE_TRUE : VARIABLE_UNSET;
	cvm_page->variable = (uint32_t)boot_page.variable;
}

static void give_back(void *state, uint64_t start, uint64_t end)
{
	uint64_t result;

	(void)state;
	convert(&cpus[0], start, end - start, CONVERT_PRIVATE, &result);
}

/* A kernel builds its own tables: everything private but its decrypted section. */
static void new_tables(void)
{
	uint64_t ghcb = cvm_page->firmware_ghcb;

	if (ghcb)
		share_in_tables(ghcb, ghcb + PAGE_SIZE, true);
	share_in_tables(cvm_page->decrypted_start, cvm_page->decrypted_end, false);
}

void cvm_kernel_begin(void)
{
	if (!cvm.kind)
		return;
	arch_tables_walk(give_back, NULL);
	cvm_page->phase = PHASE_KERNEL;
	cvm_page->kernel = (uint32_t)++boot_page.kernels;
	cvm_page->variable = (uint32_t)boot_page.variable;
	new_tables();
	cvm_cpu_init(&cpus[0]);
	if (!is_kexec || !has_fault(FAULT_KEXEC_KEEPS_RANGES))
		for (unsigned i = 0; i < ram.count; i++)
			tell(ram.at[i].start, ram.at[i].end, true);
	tell(cvm_page->decrypted_start, cvm_page->decrypted_end, false);
}

/* arch/x86/kernel/kvm.c: setup_efi_kvm_sev_migration() */
void cvm_kernel_end(void)
{
	static const char *const found[] = {
		[VARIABLE_UNSET] = "EFI live migration variable not found",
		[VARIABLE_FALSE] = "live migration disabled in EFI",
		[VARIABLE_TRUE] = "live migration enabled in EFI",
	};

	if (!cvm.kind)
		return;
	cvm_page->cpus = cpu_count;
	if (!(cvm_page->features & FEATURE_MIGRATION_CONTROL))
		return;
	console_line("kvm-guest: setup_efi_kvm_sev_migration: %s", found[cvm_page->variable % 3]);
	if (cvm_page->variable == VARIABLE_TRUE)
		write_ready(&cpus[0], MIGRATION_READY);
}

void cvm_cpu_init(struct cpu *cpu)
{
	uint64_t ghcb = cvm_page ? cvm_page->decrypted_end - (ARCH_MAX_CPUS - cpu->index) * PAGE_SIZE : 0;

	if (!cvm.kind)
		return;
	if (is_es() && !arch_ghcb_register(cpu, ghcb))
		console_line("the host does not take GHCB %x of cpu %u", ghcb, (uint64_t)cpu->index);
	__atomic_fetch_or(&cvm_page->online_mask, 1ull << cpu->index, __ATOMIC_ACQ_REL);
}

/* kvm_guest_cpu_offline(): READY is the machine's, but each vCPU that goes takes it along. */
void cvm_cpu_leave(struct cpu *cpu)
{
	if (!cvm.kind)
		return;
	write_ready(cpu, 0);
	__atomic_fetch_and(&cvm_page->online_mask, ~(1ull << cpu->index), __ATOMIC_ACQ_REL);
	if (is_es() && cpu->index)
		arch_vc_reset_hold(cpu);
}
