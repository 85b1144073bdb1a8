/* A small thread pool: work is claimed in tasks by the caller and the workers that join it, each from a share of its own, then from
 * the others'.
 *
 * Not OpenMP: libgomp deadlocks after fork, clashes with other copies of itself in one process, sleeps for milliseconds
 * and needs bundling.  Here the caller never waits for a worker that has not joined: it claims tasks itself, closes the
 * job when none is left and waits only for the tasks that are under way.  Workers start on first use and wait
 * awake for FC_STAY_NS after a job.  One job at a time owns the workers; a second Python thread that calls meanwhile
 * runs its job alone, as does a call from inside a task of a parallel job.  A forked child starts afresh.
 */
#ifndef FC_BASE_THREADS_H
#define FC_BASE_THREADS_H

#include "fastconv.h"

enum { FC_THREADS_MAX = 256 };

/* `worker` is below the `threads` given to fc_parallel and unique among the tasks that run at one time. */
typedef void (*fc_task)(void *context, int64_t task, int worker);

/* Until it is called with 0: operations that this thread plans use at most `most` threads. */
void fc_threads_limit(int most);

void fc_parallel(int threads, int64_t tasks, fc_task run, void *context);

#endif
