//! The fallback: a timer on each thread's processor time sends SIGPROF, whose handler walks the frame pointers.
//!
//! The handler runs anywhere, also inside the allocator. It takes no lock, allocates nothing, and reads foreign memory
//! only through process_vm_readv(2), which answers an error where a plain read would crash.
//!
//! Unsafe code here follows three rules. **G1**: a C call gets only pointers to locals or statics that outlive it, of
//! the type its manual page names, and its result is used only if it reports success. **G2**: the kernel gives a
//! SA_SIGINFO handler a valid `ucontext_t`. **G3**: the handler does only what signal-safety(7) allows: atomics, and
//! system calls; it leaves `errno` as it was.

use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::super::{Error, Result, threads};
use super::{FRAMES_MAX, Stacks, THREADS_MAX};

/// The timers of all threads that are sampled.
pub(super) struct Signal {
    hertz: u32,
    timers: Vec<(u32, Timer)>,
    refused: Vec<u32>,
    n_refused: u64,
}

/// One thread's timer.
struct Timer(libc::timer_t);

/// One sample between the handler and the collector.
struct Slot {
    /// [`FREE`] → (handler) [`TAKEN`] → (handler) [`READY`] → (collector) [`FREE`].
    state: AtomicU32,
    tid: AtomicU32,
    n_frames: AtomicU32,
    frames: [AtomicU64; FRAMES_MAX],
}

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const READY: u32 = 2;

/// A megabyte, made when the signal is first used and kept: a handler may still hold a slot when a profile ends.
const SLOTS: usize = 1_024;
static RING: OnceLock<Box<[Slot]>> = OnceLock::new();
static NEXT: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
/// Signals that are on their way when a profile ends find this off.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// No thread of the house has a larger stack; a frame pointer further away is none.
#[cfg(target_arch = "x86_64")]
const STACK_MAX: u64 = 8 << 20;

// === impl Signal ===

impl Signal {
    pub(super) fn start(hertz: u32) -> Result<Self> {
        let ring = RING.get_or_init(|| (0..SLOTS).map(|_| Slot::new()).collect());
        install()?;
        ring.iter().for_each(Slot::release_ready);
        LOST.store(0, Ordering::Relaxed);
        ACTIVE.store(true, Ordering::Release);
        let mut signal = Self {
            hertz,
            timers: Vec::new(),
            refused: Vec::new(),
            n_refused: 0,
        };
        signal.watch_new_threads();
        if signal.timers.is_empty() {
            return Err(Error::Timer(std::io::Error::last_os_error()));
        }
        Ok(signal)
    }

    pub(super) fn collect(&mut self, stacks: &mut Stacks) {
        let mut frames = Vec::with_capacity(FRAMES_MAX);
        for slot in RING.get().into_iter().flatten() {
            if slot.state.load(Ordering::Acquire) != READY {
                continue;
            }
            let n = (slot.n_frames.load(Ordering::Relaxed) as usize).min(FRAMES_MAX);
            frames.clear();
            frames.extend(slot.frames[..n].iter().map(|frame| frame.load(Ordering::Relaxed)));
            let tid = slot.tid.load(Ordering::Relaxed);
            slot.state.store(FREE, Ordering::Release);
            stacks.add(tid, &frames);
        }
        stacks.lost += LOST.swap(0, Ordering::Relaxed);
        self.watch_new_threads();
        stacks.threads_refused = self.n_refused;
    }

    fn watch_new_threads(&mut self) {
        let alive = threads::ids();
        self.timers.retain(|(tid, _)| alive.contains(tid));
        self.refused.retain(|tid| alive.contains(tid));
        for tid in alive {
            if self.timers.iter().any(|(known, _)| *known == tid) || self.refused.contains(&tid) {
                continue;
            }
            let timer = (self.timers.len() < THREADS_MAX).then(|| Timer::start(tid, self.hertz));
            match timer.flatten() {
                Some(timer) => self.timers.push((tid, timer)),
                None => {
                    self.n_refused += 1;
                    self.refused.push(tid);
                }
            }
        }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        ACTIVE.store(false, Ordering::Release);
    }
}

/// Installs the handler once and leaves it: the default action of a late SIGPROF would end the process.
fn install() -> Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let mut present = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: G1, sigaction(2) that only asks.
        let asked = unsafe { libc::sigaction(libc::SIGPROF, std::ptr::null(), present.as_mut_ptr()) };
        // SAFETY: zero bytes are a valid sigaction (SIG_DFL), and the call above may only have made it more precise.
        let mut action = unsafe { present.assume_init() };
        let is_free = [libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
        if asked != 0 || !is_free {
            return false;
        }
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: G1, sigaction(2); the handler obeys G3.
        unsafe { libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) == 0 }
    });
    if *installed {
        Ok(())
    } else {
        Err(Error::SignalTaken)
    }
}

// === impl Timer ===

impl Timer {
    /// A timer on the processor time of thread `tid`.
    fn start(tid: u32, hertz: u32) -> Option<Self> {
        // The kernel's number for a thread's own clock: the inverted id, "one thread" (4), "time on a core" (2).
        let clock = (!(tid as i32) << 3) | 4 | 2;
        // SAFETY: zero bytes are a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGPROF;
        event.sigev_notify_thread_id = tid as i32;
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY: G1, timer_create(2).
        if unsafe { libc::timer_create(clock, &raw mut event, &raw mut id) } != 0 {
            return None;
        }
        let timer = Self(id);
        let period = libc::timespec {
            tv_sec: 0,
            tv_nsec: 999_999_999 / i64::from(hertz),
        };
        let times = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: G1, timer_settime(2).
        let set = unsafe { libc::timer_settime(timer.0, 0, &raw const times, std::ptr::null_mut()) };
        (set == 0).then_some(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: G1, timer_delete(2); the id came from timer_create and is deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

// === impl Slot ===

impl Slot {
    fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            tid: AtomicU32::new(0),
            n_frames: AtomicU32::new(0),
            frames: [const { AtomicU64::new(0) }; FRAMES_MAX],
        }
    }

    fn claim(&self) -> bool {
        self.state
            .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Forgets a sample that an earlier profile left.
    fn release_ready(&self) {
        // A slot in another state is free already, or a late handler's, who makes it ready for the next collection.
        let _ = self
            .state
            .compare_exchange(READY, FREE, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn fill(&self, registers: &Registers) {
        let mut n = 0;
        walk(registers, |address| {
            self.frames[n].store(address, Ordering::Relaxed);
            n += 1;
            n < FRAMES_MAX
        });
        self.tid.store(registers.tid, Ordering::Relaxed);
        self.n_frames.store(n as u32, Ordering::Relaxed);
        self.state.store(READY, Ordering::Release);
    }
}

// === The handler ===

/// Where the thread was when the signal came.
struct Registers {
    tid: u32,
    instruction: u64,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "no walk is written for it")
    )]
    stack: u64,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "no walk is written for it")
    )]
    frame: u64,
}

extern "C" fn handler(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if !ACTIVE.load(Ordering::Acquire) {
        return;
    }
    let Some(ring) = RING.get() else { return };
    let slot = &ring[NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS];
    if !slot.claim() {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // SAFETY: G3, gettid(2) takes nothing.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
    slot.fill(&registers(context, tid));
}

#[cfg(target_arch = "x86_64")]
fn registers(context: *mut libc::c_void, tid: u32) -> Registers {
    // SAFETY: G2.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let of = |register: i32| registers[register as usize] as u64;
    Registers {
        tid,
        instruction: of(libc::REG_RIP),
        stack: of(libc::REG_RSP),
        frame: of(libc::REG_RBP),
    }
}

#[cfg(target_arch = "aarch64")]
fn registers(context: *mut libc::c_void, tid: u32) -> Registers {
    // SAFETY: G2.
    let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    Registers {
        tid,
        instruction: machine.pc,
        stack: machine.sp,
        frame: machine.regs[29],
    }
}

/// Gives each address, innermost first, until `take` has enough or the chain ends.
#[cfg(target_arch = "x86_64")]
fn walk(registers: &Registers, mut take: impl FnMut(u64) -> bool) {
    if !take(registers.instruction) {
        return;
    }
    let (mut lowest, mut frame) = (registers.stack, registers.frame);
    // Each frame lies above the one before and within one stack; a register used for something else ends the walk.
    while frame >= lowest && frame - registers.stack < STACK_MAX && frame.is_multiple_of(8) {
        let Some([caller_frame, return_address]) = read_pair(frame) else {
            return;
        };
        if return_address == 0 || !take(return_address) {
            return;
        }
        lowest = frame + 16;
        frame = caller_frame;
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn walk(registers: &Registers, mut take: impl FnMut(u64) -> bool) {
    take(registers.instruction);
}

/// Two words at `address`, or nothing where no memory is.
#[cfg(target_arch = "x86_64")]
fn read_pair(address: u64) -> Option<[u64; 2]> {
    let mut pair = [0_u64; 2];
    let local = libc::iovec {
        iov_base: pair.as_mut_ptr().cast(),
        iov_len: 16,
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: 16,
    };
    // SAFETY: G3; glibc's errno is a plain thread-local.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: G3, the pointer is that of this thread.
    let before = unsafe { *errno };
    // SAFETY: G1, process_vm_readv(2) on this process: it checks `address` itself.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    // SAFETY: G3, as above.
    unsafe { *errno = before };
    (n == 16).then_some(pair)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn check_walk(stack: &[u64], frame_at: usize, expected: &[u64]) {
        let base = stack.as_ptr() as u64;
        let registers = Registers {
            tid: 0,
            instruction: 0xAAAA,
            stack: base,
            frame: base + frame_at as u64 * 8,
        };
        let mut seen = Vec::new();
        walk(&registers, |address| {
            seen.push(address);
            true
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_chain_is_followed_until_it_ends() {
        let mut stack = vec![0_u64; 8];
        let base = stack.as_ptr() as u64;
        stack[0] = base + 4 * 8;
        stack[1] = 0xBBBB;
        stack[4] = 0; // The outermost frame has no caller.
        stack[5] = 0xCCCC;
        check_walk(&stack, 0, &[0xAAAA, 0xBBBB, 0xCCCC]);
    }

    #[test]
    fn a_chain_that_turns_back_or_leaves_memory_ends() {
        let mut stack = vec![0_u64; 8];
        let base = stack.as_ptr() as u64;
        stack[2] = base; // Back down.
        stack[3] = 0xBBBB;
        check_walk(&stack, 2, &[0xAAAA, 0xBBBB]);
        stack[2] = base + 3 * 8 + 4; // Not aligned.
        check_walk(&stack, 2, &[0xAAAA, 0xBBBB]);
        assert_eq!(read_pair(16), None, "nothing is mapped at the bottom");
        assert_eq!(read_pair(u64::MAX - 7), None);
    }

    #[test]
    fn errno_stays() {
        // SAFETY: the pointer is that of this thread.
        unsafe { *libc::__errno_location() = 77 };
        assert_eq!(read_pair(16), None);
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 77);
    }
}
