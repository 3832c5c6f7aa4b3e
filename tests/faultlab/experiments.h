/* experiments.h: all experiments, by file; main.c lists them, README.md says what each does. */
#ifndef FAULTLAB_EXPERIMENTS_H
#define FAULTLAB_EXPERIMENTS_H

/* hot.c: every instruction of the operations on a ring */
void snapshot_publish(void);
void snapshot_consume(void);
void kill_publish(void);
void kill_consume(void);
void kill_observe(void);

/* interleave.c: another process acts between any two instructions */
void pairs_publish_consume(void);
void interleave_observe(void);
void interleave_publish(void);
void truncate_instruction(void);

/* cold.c: every instruction of the operations on files */
void snapshot_create(void);
void snapshot_takeover(void);
void snapshot_delete(void);
void snapshot_attach(void);
void kill_create(void);
void kill_takeover(void);
void kill_delete(void);
void kill_attach(void);

/* replace.c: the consumer's file is made anew under a living producer */
void replace_consumer(void);

/* loss.c: records that are lost are counted */
void lost_is_counted(void);
void kill_skip(void);

/* storm.c */
void kill_storm(void);

/* stop.c: SIGSTOP and SIGCONT */
void stop_consumer_wait(void);
void stop_consumer_drop(void);
void stop_observer_overwrite(void);
void stop_producer(void);

/* truncate.c */
void truncate_boundary(void);
void truncate_random(void);

/* hostile.c */
void scribble_attached(void);
void scribble_takeover(void);
void scribble_live(void);
void wrong_size(void);
void wrong_field(void);

#endif
