/* Private to arch/aarch64: LPIs (lpi.c), the commands that make and move them (its.c), and virtual ones (vpe.c). Names and
 * numbers: Arm IHI 0069, chapters 5, 6, 12.11 (GICR_*) and 12.18 (GITS_*). */
#ifndef PROBE_ITS_H
#define PROBE_ITS_H
#include "arm.h"

enum { LPI_FIRST = 8192, ID_BITS = 14, LPI_COUNT = (1 << ID_BITS) - LPI_FIRST, EVENTS = 64, EVENT_BITS = 6, ITS_DEVICES = 8 };
enum { COLLECTIONS = 64, VPE_ID = 5, INTID_NONE = 1023 };

/* lpi.c. Tables lie in RAM that its_reserve() took, all of them in 64 KiB blocks: one per vCPU, one more for the vPE. */
bool its_reserve(void);                 /* while memory can be taken; false on a machine without ITS */
uint64_t lpi_block(unsigned number);    /* gpa; the pending table is at its start */
void lpi_enable(struct cpu *cpu);       /* tables and GICR_CTLR.EnableLPIs of the calling vCPU */
void lpi_disable(struct cpu *cpu);      /* EnableLPIs off; what is pending stays in the table */
void lpi_forget(unsigned cpu);          /* clears a pending table, while its LPIs are disabled */
void lpi_configure(uint32_t intid, uint8_t priority, bool enabled);     /* INV or INVALL makes it count */
void vlpi_configure(uint32_t intid, uint8_t priority, bool enabled);
uint64_t vlpi_configuration(void);      /* gpa of the vPE's configuration table */

/* its.c. All of them return when the command has been executed, unless the ITS is off. */
void its_init(void);                    /* registers and tables; a second call does nothing */
bool its_is_on(void);
void its_switch(bool on);               /* GITS_CTLR.Enabled; commands wait in the queue while it is off */
void its_map_device(uint32_t device);
void its_map_collection(uint32_t collection, unsigned cpu);
void its_map(uint32_t device, uint32_t event, uint32_t intid, uint32_t collection);
void its_move(uint32_t device, uint32_t event, uint32_t collection);
void its_move_all(unsigned from, unsigned to);
void its_raise(uint32_t device, uint32_t event);
void its_clear(uint32_t device, uint32_t event);
void its_discard(uint32_t device, uint32_t event);
void its_reread(uint32_t device, uint32_t event);       /* INV: the configuration of one LPI */
void its_reread_all(uint32_t collection);
void its_sync(unsigned cpu);
void its_map_vpe(unsigned cpu, uint64_t pending_table);
void its_map_virtual(uint32_t device, uint32_t event, uint32_t intid, uint32_t doorbell);
void its_move_vpe(unsigned cpu);
uint64_t its_translater(void);          /* where a device writes its MSIs */
#endif
