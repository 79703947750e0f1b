"""Which confidential technologies a host has, from its files alone: a missing file means no."""

from __future__ import annotations

from pathlib import Path

from harness.hosts.capability import Capability
from harness.hosts.sysfiles import cpu_info, is_device, module_flag, read_text

_AMD, _HYGON, _INTEL = "AuthenticAMD", "HygonGenuine", "GenuineIntel"


def probe_confidential(root: Path) -> tuple[Capability, ...]:
    """SEV, SEV-ES, SEV-SNP (or Hygon's CSV, CSV2, CSV3) and TDX, each with what speaks for or against it."""
    info = cpu_info(root)
    vendor = info.get("vendor_id", "unknown")
    flags = frozenset(info.get("flags", "").split())
    return (
        _sev(root, "sev", "sev", vendor, flags, _AMD),
        _sev(root, "sev-es", "sev_es", vendor, flags, _AMD),
        _sev(root, "sev-snp", "sev_snp", vendor, flags, _AMD),
        _sev(root, "csv", "sev", vendor, flags, _HYGON),
        _sev(root, "csv2", "sev_es", vendor, flags, _HYGON),
        _csv3(root, vendor),
        _tdx(root, vendor),
    )


def _sev(root: Path, name: str, parameter: str, vendor: str, flags: frozenset[str], wanted: str) -> Capability:
    needed = f"{wanted} processor, kvm_amd.{parameter}=1, /dev/sev"
    if vendor != wanted:
        return Capability(name=name, present=False, found=f"processor is {vendor}", needed=needed)
    # The parameter outranks the processor's flags: vendors' kernels spell those in their own ways.
    if not module_flag(root, "kvm_amd", parameter):
        found = _flag_words(root, "kvm_amd", parameter)
        if parameter not in flags:
            remedy = "enable it in the firmware, if the processor has it"
            return _off(name, f"{found}; the processor does not list {parameter}", needed, remedy)
        return _off(name, found, needed, f"load kvm_amd with {parameter}=1")
    if not is_device(root, "dev/sev"):
        return _off(name, "no /dev/sev", needed, "load ccp; see its messages about the secure processor's firmware")
    return Capability(name=name, present=True, found=f"kvm_amd.{parameter} is on, /dev/sev is there", needed=needed)


def _csv3(root: Path, vendor: str) -> Capability:
    needed = (
        "Hygon processor with CSV3, a kernel that has it, memory set aside with csv_mem_size= or csv_mem_percentage="
    )
    if vendor != _HYGON:
        return Capability(name="csv3", present=False, found=f"processor is {vendor}", needed=needed)
    words = (read_text(root, "proc/cmdline") or "").split()
    reserved = [word for word in words if word.startswith(("csv_mem_size=", "csv_mem_percentage="))]
    if not reserved:
        return _off("csv3", "no memory is set aside", needed, "boot with csv_mem_percentage=50 or the like")
    if not is_device(root, "dev/sev"):
        return _off("csv3", "no /dev/sev", needed, "load ccp; see its messages about the secure processor's firmware")
    return Capability(name="csv3", present=True, found=f"{reserved[0]}, /dev/sev is there", needed=needed)


def _tdx(root: Path, vendor: str) -> Capability:
    needed = "Intel processor, kvm_intel.tdx=1 with an initialised TDX module"
    if vendor != _INTEL:
        return Capability(name="tdx", present=False, found=f"processor is {vendor}", needed=needed)
    if not module_flag(root, "kvm_intel", "tdx"):
        remedy = "enable TDX in the firmware, boot with kvm_intel.tdx=1; see virt/tdx in the kernel's log"
        return _off("tdx", _flag_words(root, "kvm_intel", "tdx"), needed, remedy)
    return Capability(name="tdx", present=True, found="kvm_intel.tdx is on", needed=needed)


def _flag_words(root: Path, module: str, parameter: str) -> str:
    state = module_flag(root, module, parameter)
    return (
        f"{module} has no parameter {parameter}, or is not loaded" if state is None else f"{module}.{parameter} is off"
    )


def _off(name: str, found: str, needed: str, remedy: str) -> Capability:
    return Capability(name=name, present=False, found=found, needed=needed, remedy=remedy)
