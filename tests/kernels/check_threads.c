/* The thread pool and the arena under stress, for the sanitizers as much as for the results.
 *
 *     check_threads [nofork]     a line per check:  ok|FAIL name what went wrong
 *
 * What tasks write is plain memory, so that a sanitizer sees a race wherever the pool orders too little: each task its own
 * element, each worker its own counter, the caller reads all of them afterwards.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/blocks.h"
#include "base/threads.h"

enum { CALLERS = 4, JOBS = 2000, TASKS_MAX = 64, WORKERS_MAX = 6, FORKS = 12, PATIENCE_S = 60 };

static _Atomic(const char *) wrong;

typedef struct job {
    int threads, nested;
    int64_t tasks;
    int done[TASKS_MAX];           /* times that each task ran */
    int64_t by_worker[WORKERS_MAX]; /* tasks that each worker ran */
} job;

static void run_task(void *context, int64_t task, int worker);

static void run_job(job *j)
{
    memset(j->done, 0, sizeof j->done);
    memset(j->by_worker, 0, sizeof j->by_worker);
    fc_parallel(j->threads, j->tasks, run_task, j);
    int64_t total = 0;
    for (int i = 0; i < WORKERS_MAX; i++)
        total += j->by_worker[i];
    if (total != j->tasks)
        wrong = "the workers' tasks do not add up: a worker's number was used twice at a time";
    for (int64_t i = 0; i < j->tasks; i++)
        if (j->done[i] != 1)
            wrong = "a task did not run exactly once";
}

static void run_task(void *context, int64_t task, int worker)
{
    job *j = context;
    if (task < 0 || task >= j->tasks || worker < 0 || worker >= (j->threads > 1 ? j->threads : 1)) {
        wrong = "a task or a worker out of range";
        return;
    }
    j->done[task]++;
    j->by_worker[worker]++;
    if (j->nested) {
        job inner = {.threads = 3, .tasks = 5};
        run_job(&inner);
    }
}

static void *call(void *argument)
{
    int64_t seed = (int64_t)(intptr_t)argument;
    for (int64_t i = 0; i < JOBS && !wrong; i++) {
        int64_t mixed = (seed * JOBS + i) * 2654435761 >> 7;
        job j = {.threads = (int)(mixed % (WORKERS_MAX + 1)), .tasks = mixed / 7 % TASKS_MAX, .nested = mixed / 450 % 8 == 0};
        run_job(&j);
        if (i % 64 == 63)
            usleep(300); /* until the workers sleep */
    }
    return NULL;
}

static void call_from_many_threads(void)
{
    pthread_t callers[CALLERS];
    for (intptr_t i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, call, (void *)i)) {
            wrong = "no thread to call from";
            return;
        }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
}

/* More threads than there are CPUs. */
static void run_wide(void)
{
    static job wide;
    for (int i = 0; i < 50 && !wrong; i++) {
        wide = (job){.threads = WORKERS_MAX, .tasks = TASKS_MAX};
        run_job(&wide);
    }
}

static _Atomic int stop;

static void *keep_calling(void *unused)
{
    (void)unused;
    while (!stop) {
        job j = {.threads = 3, .tasks = 16};
        run_job(&j);
    }
    return NULL;
}

/* The child of a process whose threads are in the middle of jobs: it must neither hang nor lose tasks. */
static void fork_amid_jobs(void)
{
    pthread_t caller;
    if (pthread_create(&caller, NULL, keep_calling, NULL)) {
        wrong = "no thread to call from";
        return;
    }
    for (int i = 0; i < FORKS && !wrong; i++) {
        usleep(500);
        pid_t child = fork();
        if (child == 0) {
            alarm(PATIENCE_S);
            for (int k = 0; k < 20; k++) {
                job j = {.threads = 4, .tasks = TASKS_MAX};
                run_job(&j);
            }
            _exit(wrong != NULL);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
            wrong = "a forked child hung or lost tasks";
        job j = {.threads = 4, .tasks = TASKS_MAX};
        run_job(&j);
    }
    stop = 1;
    pthread_join(caller, NULL);
}

/* Every thread has a block of its own, aligned, kept between calls while it is small, gone with the thread. */
static void *use_arena(void *argument)
{
    unsigned char mark = (unsigned char)(1 + (intptr_t)argument);
    char *kept = NULL;
    for (int64_t i = 0; i < 200; i++) {
        int64_t bytes = i * 7919 % 100000;
        char *p = fc_arena_take(bytes);
        if (!p || (uintptr_t)p % FC_ALIGN)
            wrong = "no block, or one that is not aligned";
        memset(p, mark, (size_t)bytes);
        usleep(1);
        for (int64_t k = 0; k < bytes; k += 997)
            if (p[k] != mark)
                wrong = "two threads share a block";
        fc_arena_give();
        kept = p;
    }
    if (fc_arena_take(1) != kept && fc_arena_take(1) != fc_arena_take(2))
        wrong = "a small block is not kept";
    fc_arena_give();
    char *large = fc_arena_take(FC_ARENA_KEEP + 1);
    if (!large)
        wrong = "no large block";
    else
        large[FC_ARENA_KEEP] = 1;
    fc_arena_give();
    if (fc_arena_take(-1) || fc_arena_take(INT64_MAX))
        wrong = "a size that cannot be was granted";
    if (!fc_arena_take(64))
        wrong = "no block after a refusal";
    fc_arena_give();
    char *own = fc_arena_take(256);
    fc_arena_lend(own + 64, 128);
    if (fc_arena_take(128) != own + 64 || fc_arena_take(0) != own + 64 || fc_arena_take(129) || fc_arena_take(-1))
        wrong = "what was lent is not what is taken";
    fc_arena_give();
    fc_arena_lend(NULL, 0);
    if (fc_arena_take(256) != own)
        wrong = "what was lent is still taken";
    fc_arena_give();
    int threads = fc_threads_get();
    fc_threads_limit(1);
    int limited = fc_threads_get();
    fc_threads_limit(0);
    if (limited != 1 || fc_threads_get() != threads)
        wrong = "the limit of a thread is not kept, or not lifted";
    return NULL;
}

static void call_all(void *(*run)(void *))
{
    pthread_t users[CALLERS];
    for (intptr_t i = 0; i < CALLERS; i++)
        if (pthread_create(&users[i], NULL, run, (void *)i)) {
            wrong = "no thread to run on";
            return;
        }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(users[i], NULL);
}

/* Blocks are aligned, nobody else's while they are taken, and the store keeps no more than it may. */
static void *use_blocks(void *argument)
{
    unsigned char mark = (unsigned char)(1 + (intptr_t)argument);
    enum { HELD = 8 };
    char *held[HELD] = {NULL};
    int64_t size[HELD];
    for (int64_t i = 0; i < 400; i++) {
        int at = (int)(i * 5 % HELD);
        for (int64_t k = 0; held[at] && k < size[at]; k += 997)
            if (held[at][k] != mark)
                wrong = "two holders share a block";
        if (held[at])
            fc_block_give(held[at]);
        size[at] = i * 7919 % 100000 + (i % 50 ? 0 : 5 << 20);
        held[at] = fc_block_take(size[at]);
        if (!held[at] || (uintptr_t)held[at] % FC_ALIGN || fc_block_size(held[at]) < size[at])
            wrong = "no block, or one that is small or not aligned";
        memset(held[at], mark, (size_t)size[at]);
    }
    for (int at = 0; at < HELD; at++)
        fc_block_give(held[at]);
    return NULL;
}

static void reuse_blocks(void)
{
    char *block = fc_block_take(1 << 20);
    fc_block_give(block);
    char *again = fc_block_take((1 << 20) - 100);
    if (again != block)
        wrong = "a block of the right size is not taken again";
    fc_block_give(again);
    block = fc_block_take(1 << 19);
    if (block == again)
        wrong = "a block is taken for half of what it holds";
    fc_block_give(block);
    if (fc_block_take(-1) || fc_block_take(INT64_MAX))
        wrong = "a size that cannot be was granted";
    char *many[2 * FC_BLOCKS_KEPT];
    for (int i = 0; i < 2 * FC_BLOCKS_KEPT; i++)
        many[i] = fc_block_take(100);
    for (int i = 0; i < 2 * FC_BLOCKS_KEPT; i++)
        fc_block_give(many[i]);
    block = fc_block_take(100);
    if (block != many[2 * FC_BLOCKS_KEPT - 1])
        wrong = "the youngest block is not the first to be taken";
    fc_block_give(block);
    block = fc_block_take(FC_BLOCKS_KEEP + 1);
    if (!block)
        wrong = "no large block";
    else
        fc_block_give(block);
    call_all(use_blocks);
}

static void use_arenas(void)
{
    call_all(use_arena);
}

static void set_threads(void)
{
    static const int asked[] = {1, 2, 7, 0, -5, FC_THREADS_MAX, FC_THREADS_MAX + 1};
    static const int given[] = {1, 2, 7, 1, 1, FC_THREADS_MAX, FC_THREADS_MAX};
    int before = fc_threads_get();
    if (before < 1 || before != fc_threads_default() || before > sysconf(_SC_NPROCESSORS_ONLN))
        wrong = "the default number of threads";
    for (int i = 0; i < 7; i++) {
        fc_threads_set(asked[i]);
        if (fc_threads_get() != given[i])
            wrong = "the number of threads is not what was set, within 1 ... FC_THREADS_MAX";
    }
    fc_threads_set(before);
}

int main(int count, char **arguments)
{
    static const struct row {
        const char *name;
        void (*run)(void);
    } rows[] = {{"set", set_threads}, {"wide", run_wide},         {"callers", call_from_many_threads},
                {"arena", use_arenas}, {"blocks", reuse_blocks}, {"fork", fork_amid_jobs}, {"afterwards", run_wide}};
    int nofork = count > 1 && !strcmp(arguments[1], "nofork"), failures = 0;
    alarm(PATIENCE_S);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (nofork && rows[i].run == fork_amid_jobs)
            continue;
        wrong = NULL;
        rows[i].run();
        printf("%s %s %s\n", wrong ? "FAIL" : "ok", rows[i].name, wrong ? wrong : "1");
        fflush(stdout);
        failures += wrong != NULL;
    }
    return failures > 0;
}
