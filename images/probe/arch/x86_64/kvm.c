/* A real KVM underneath: how it is found, and how it is called. linux: Documentation/virt/kvm/x86/cpuid.rst, hypercalls.rst,
 * msr.rst. A software platform answers on its own channel, see hypercall.c. */
#include "x86.h"
#include "confidential.h"

#define HYPERVISOR_LEAF 0x40000000u
#define NEXT_HYPERVISOR 0x100u                  /* where a second interface (Hyper-V's) comes first, KVM's is one further on */
#define LAST_HYPERVISOR 0x40010000u
enum { HYPERVISOR_PRESENT = 1u << 31 };

static bool spells(uint32_t a, uint32_t b, uint32_t c, const char *text)
{
	uint32_t word[3];

	memcpy(word, text, sizeof word);
	return a == word[0] && b == word[1] && c == word[2];
}

static uint32_t find_leaf(void)
{
	if (!(cpuid(1, 0).c & HYPERVISOR_PRESENT))
		return 0;
	for (uint32_t leaf = HYPERVISOR_LEAF; leaf < LAST_HYPERVISOR; leaf += NEXT_HYPERVISOR) {
		struct cpuid id = cpuid(leaf, 0);

		if (spells(id.b, id.c, id.d, "KVMKVMKVM\0\0"))
			return leaf;
	}
	return 0;
}

/* The other vendor's instruction is an invalid opcode to the processor; KVM would have to rewrite it in our text. */
static bool has_vmmcall(void)
{
	struct cpuid id = cpuid(0, 0);

	return spells(id.b, id.d, id.c, "AuthenticAMD") || spells(id.b, id.d, id.c, "HygonGenuine");
}

struct kvm arch_kvm_find(void)
{
	uint32_t leaf = find_leaf();

	if (!leaf)
		return (struct kvm){ KVM_NONE, 0 };
	return (struct kvm){ has_vmmcall() ? KVM_VMMCALL : KVM_VMCALL, cpuid(leaf + 1, 0).a };
}

uint64_t arch_kvm_call(enum kvm_call how, const struct registers *registers)
{
	uint64_t result = registers->rax;

	if (how == KVM_VMMCALL)
		__asm__ volatile("vmmcall" : "+a"(result) : "b"(registers->rbx), "c"(registers->rcx), "d"(registers->rdx) : "memory");
	else
		__asm__ volatile("vmcall" : "+a"(result) : "b"(registers->rbx), "c"(registers->rcx), "d"(registers->rdx) : "memory");
	return result;
}

uint64_t arch_kvm_set_msr(uint32_t msr, uint64_t value)
{
	wrmsr(msr, value);
	return rdmsr(msr);
}
