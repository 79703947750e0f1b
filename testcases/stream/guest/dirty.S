# A guest for tests of the wire: a multiboot payload that arms every timer of the PC, then rewrites 16 MiB for ever.
# Each dword at gpa holds gpa ^ (generation * 0x01000193); in one more MiB only a counter in each page changes.
# Interrupts stay off: what the timers raise stays pending.

        .set    FIRST, 0x00200000
        .set    END,   0x01200000
        .set    SPARSE, 0x01400000
        .set    SPARSE_END, 0x01500000
        .set    LAPIC, 0xfee00000
        .set    HPET,  0xfed00000

        .section .text
        .long   0x1badb002              # multiboot header: magic, flags, checksum
        .long   0
        .long   -0x1badb002

        .globl  _start
_start: cli
        movb    $0x34, %al              # PIT channel 0: rate generator
        outb    %al, $0x43
        movb    $0x80, %al
        outb    %al, $0x40
        outb    %al, $0x40
        movb    $0x0a, %al              # RTC: 1024 Hz, periodic, alarm and update interrupts on
        outb    %al, $0x70
        movb    $0x26, %al
        outb    %al, $0x71
        movb    $0x0b, %al
        outb    %al, $0x70
        movb    $0x72, %al
        outb    %al, $0x71
        movl    $0x1ff, LAPIC + 0xf0    # local APIC: on, timer periodic, divide by 16
        movl    $0x3, LAPIC + 0x3e0
        movl    $0x20020, LAPIC + 0x320
        movl    $1000000, LAPIC + 0x380
        movl    $0x4c, HPET + 0x100     # HPET timer 0: periodic, interrupt on; then the counter runs
        movl    $1000000, HPET + 0x108
        movl    $0x1, HPET + 0x10

        xorl    %ebx, %ebx
again:  movl    $FIRST, %edi
fill:   movl    %edi, %eax
        xorl    %ebx, %eax
        stosl
        cmpl    $END, %edi
        jb      fill
        movl    $SPARSE, %edi
count:  incl    (%edi)
        addl    $0x1000, %edi
        cmpl    $SPARSE_END, %edi
        jb      count
        addl    $0x01000193, %ebx
        jmp     again
