#define _GNU_SOURCE
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* How long a worker awaits the next job after its last one closed: first it spins, then it offers its core to others at every
 * turn, then it sleeps.  To wake it costs 5-50 us, and up to a millisecond on a virtual machine whose halted core another guest
 * has taken.  Two threads, where it had spun for 60 us and slept, also while its caller still worked on the same job: 1x1
 * 64-256@56 1.2 -> 0.68 ms, 1x1s2 256-512@56 3.3 -> 1.4 ms.  Spinning for 2 ms instead was as good, but a matrix product of
 * NumPy's between two calls took 3.2 ms for 1.4: its BLAS has threads too. */
enum { FC_SPIN_NS = 60000, FC_STAY_NS = 2000000 };

/* The job's state is one word: | epoch | open | wanted | joined |.  A worker joins by a compare-and-swap that adds one to
 * `joined` while the job is open and someone is wanted, so a closed job can never be entered. */
#define JOINED(state) ((int)((state) & 0xfff))
#define WANTED(state) ((int)((state) >> 12 & 0xfff))
#define OPEN ((uint64_t)1 << 24)
#define EPOCH ((uint64_t)1 << 32)

/* A worker's share of the tasks: a run of them, so that the next call over the same arrays finds in a worker's cache what this one
 * left there.  From one counter the halves of an array that is written again and again went from core to core: the gradient of a
 * global mean over 8x2048 planes of 7x7 took 170 us at two threads, no less than at one; now 100.  3x3s2 64@112's 222, 199. */
typedef struct share {
    _Alignas(64) _Atomic int64_t next; /* a cache line of its own */
    int64_t end;
} share;

typedef struct sleeper {
    pthread_t thread;
    int asleep; /* guarded by the pool's lock */
#ifdef __linux__
    cpu_set_t allowed; /* where it may run; empty if the kernel does not say */
#endif
} sleeper;

static struct {
    pthread_mutex_t owner, lock; /* owner: the job; lock: sleeping and starting */
    pthread_cond_t wake;
    _Atomic uint64_t state;
    _Atomic int64_t done; /* the workers that have left the job */
    _Atomic int sleepers;
    int started;
    sleeper sleeper[FC_THREADS_MAX];
    int shares;
    share share[FC_THREADS_MAX];
    fc_task run;
    void *context;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Atomic int threads_wanted;
static _Thread_local int inside, limit;

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void claim(int worker)
{
    int64_t task;
    for (int i = 0; i < pool.shares; i++) {
        share *s = &pool.share[(worker + i) % pool.shares];
        while ((task = atomic_fetch_add(&s->next, 1)) < s->end)
            pool.run(pool.context, task, worker);
    }
}

static int joinable(uint64_t state)
{
    return (state & OPEN) && JOINED(state) < WANTED(state);
}

/* The worker's number in a job that it could join, or 0. */
static int join(void)
{
    uint64_t state = atomic_load(&pool.state);
    while (joinable(state))
        if (atomic_compare_exchange_weak(&pool.state, &state, state + 1))
            return JOINED(state) + 1;
    return 0;
}

#ifdef __linux__
/* The kernel may wake a worker on its caller's core, although another is idle, and there it waits for the caller's slice to end:
 * 2-4 ms, in which the first five to ten calls after a pause ran alone (1x1 512-512@14 at two threads, 440 us each and then 225).
 * So a sleeper is kept off that core while it is woken.  That it leaves by itself once it runs was tried: it does not run. */
static void keep_off(const sleeper *who, int cpu)
{
    cpu_set_t others = who->allowed;
    if (cpu >= 0)
        CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others))
        pthread_setaffinity_np(who->thread, sizeof others, &others);
}
#endif

static void wake_sleepers(int wanted)
{
    pthread_mutex_lock(&pool.lock);
#ifdef __linux__
    for (int i = 0, cpu = sched_getcpu(); i < pool.started; i++)
        if (pool.sleeper[i].asleep)
            keep_off(&pool.sleeper[i], cpu);
#endif
    pthread_mutex_unlock(&pool.lock);
    while (wanted--)
        pthread_cond_signal(&pool.wake);
}

/* Returns also when the job that woke it has closed meanwhile: more jobs follow soon where an operation is several, and a worker
 * that went back to sleep would miss them all (dilated 3x3 128@28 at two threads after a pause, four jobs a call: 404 us, as long
 * as with one; now 235). */
static void sleep_until_woken(sleeper *self)
{
    pthread_mutex_lock(&pool.lock);
    self->thread = pthread_self();
#ifdef __linux__
    if (sched_getaffinity(0, sizeof self->allowed, &self->allowed))
        CPU_ZERO(&self->allowed);
#endif
    self->asleep = 1;
    atomic_fetch_add(&pool.sleepers, 1);
    if (!joinable(atomic_load(&pool.state)))
        pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    self->asleep = 0;
#ifdef __linux__
    if (CPU_COUNT(&self->allowed))
        pthread_setaffinity_np(self->thread, sizeof self->allowed, &self->allowed);
#endif
    pthread_mutex_unlock(&pool.lock);
}

/* The worker's number in the next job, or 0 if none came.  `last` is the epoch of the job it was in. */
static int await_job(uint64_t last)
{
    int64_t start = nanoseconds(), closed = start;
    for (int64_t now = start; now - closed < FC_STAY_NS; now = nanoseconds()) {
        int worker = join();
        if (worker)
            return worker;
        uint64_t state = atomic_load(&pool.state);
        if ((state & OPEN) && state / EPOCH == last && now - start < FC_STAY_NS)
            closed = now;
        if (now - closed > FC_SPIN_NS)
            sched_yield();
        for (int i = 0; i < 16; i++)
            relax();
    }
    return 0;
}

static void *work(void *itself)
{
    sleeper *self = itself;
    inside = 1;
    for (uint64_t last = 0;;) {
        int worker = await_job(last);
        if (worker) {
            last = atomic_load(&pool.state) / EPOCH;
            claim(worker);
            atomic_fetch_add(&pool.done, 1);
        } else {
            sleep_until_woken(self);
        }
    }
    return NULL;
}

static void restart_in_child(void)
{
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    atomic_store(&pool.state, 0);
    atomic_store(&pool.sleepers, 0);
    for (; pool.started; pool.started--)
        pool.sleeper[pool.started - 1].asleep = 0;
}

static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, restart_in_child);
}

/* Starts workers up to `count`; with fewer, because the system has no more threads, the job runs on those there are. */
static void start_workers(int count)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    pthread_attr_t attributes;
    if (pool.started >= count || pthread_attr_init(&attributes))
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (pthread_t id; pool.started < count && !pthread_create(&id, &attributes, work, &pool.sleeper[pool.started]);)
        pool.started++;
    pthread_attr_destroy(&attributes);
}

static void open_job(int wanted, int64_t tasks, fc_task run, void *context)
{
    pool.run = run;
    pool.context = context;
    pool.shares = wanted + 1;
    for (int64_t i = 0; i <= wanted; i++) {
        atomic_store_explicit(&pool.share[i].next, tasks * i / (wanted + 1), memory_order_relaxed);
        pool.share[i].end = tasks * (i + 1) / (wanted + 1);
    }
    atomic_store(&pool.done, 0);
    uint64_t epoch = (atomic_load(&pool.state) & ~(EPOCH - 1)) + EPOCH;
    atomic_store(&pool.state, epoch | OPEN | (uint64_t)wanted << 12);
    if (atomic_load(&pool.sleepers))
        wake_sleepers(wanted);
}

static void close_job(void)
{
    int joined = JOINED(atomic_fetch_and(&pool.state, ~OPEN));
    for (int spins = 0; atomic_load(&pool.done) < joined; spins++) {
        relax();
        if (spins > 1 << 14) /* the worker has lost its core: let it have ours */
            sched_yield();
    }
}

void fc_parallel(int threads, int64_t tasks, fc_task run, void *context)
{
    if (threads > tasks)
        threads = (int)tasks;
    if (threads <= 1 || inside || pthread_mutex_trylock(&pool.owner)) {
        for (int64_t task = 0; task < tasks; task++)
            run(context, task, 0);
        return;
    }
    start_workers(threads - 1);
    open_job(threads - 1, tasks, run, context);
    inside = 1;
    claim(0);
    inside = 0;
    close_job();
    pthread_mutex_unlock(&pool.owner);
}

/* The CPUs that a cgroup quota leaves, rounded up, or `otherwise` where there is none (cgroup v2, then v1). */
static int cgroup_cpus(int otherwise)
{
    long long quota = -1, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file) {
        if (fscanf(file, "%lld %lld", &quota, &period) != 2)
            quota = -1;
        fclose(file);
    } else if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r"))) {
        if (fscanf(file, "%lld", &quota) != 1)
            quota = -1;
        fclose(file);
        if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r"))) {
            if (fscanf(file, "%lld", &period) != 1)
                period = 0;
            fclose(file);
        }
    }
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : otherwise;
}

int fc_threads_default(void)
{
    int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set))
        cpus = CPU_COUNT(&set);
#endif
    int quota = cgroup_cpus(cpus);
    cpus = quota < cpus ? quota : cpus;
    return cpus < 1 ? 1 : cpus > FC_THREADS_MAX ? FC_THREADS_MAX : cpus;
}

void fc_threads_limit(int most)
{
    limit = most;
}

int fc_threads_get(void)
{
    int threads = atomic_load_explicit(&threads_wanted, memory_order_relaxed);
    if (!threads) {
        threads = fc_threads_default();
        atomic_store(&threads_wanted, threads);
    }
    return limit && limit < threads ? limit : threads;
}

void fc_threads_set(int threads)
{
    atomic_store(&threads_wanted, threads < 1 ? 1 : threads > FC_THREADS_MAX ? FC_THREADS_MAX : threads);
}
