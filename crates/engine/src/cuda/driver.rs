//! The driver: memory, kernels, and graphs of them, as safe as they can be.
//!
//! An address in GPU memory is a number to the host: the plan must pass correct ones to a kernel, and the driver reports a wrong one as an
//! error of a later call. What the host itself must ensure is argued at each call.
//!
//! A call that waits for the whole device (allocating or freeing memory, destroying library handles) spoils the recording of a graph on any
//! other thread, whatever its mode. So recordings and such calls take turns: see [`exclusive`].
#![expect(unsafe_code, reason = "NVIDIA's driver is a C library")]

use super::launch::{self, Address, Grid};
use super::traffic::Traffic;
use crate::codes::explained;
use crate::error::EngineError;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_void};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes aligned for the driver, which reads whole words of them.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// Machine code for cards of compute capability 8.0 and 9.0, and PTX for later ones.
static KERNELS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// An error's meaning if known, else its own name.
pub(super) fn failed(what: &str, code: impl Debug) -> EngineError {
    EngineError::Device(format!("{what}: {}", explained(&format!("{code:?}"))))
}

fn driver<T>(what: &str, outcome: Result<T, result::DriverError>) -> Result<T, EngineError> {
    outcome.map_err(|error| failed(what, error))
}

/// Takes the turn for recording a graph, or for calls that wait for the whole device. A thread must not take it twice.
pub(super) fn exclusive() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path of a file mapped by this process whose name begins with `name`, such as a loaded library.
pub(super) fn loaded(name: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    path.into_iter()
        .find(|path| path.rsplit('/').next().is_some_and(|file| file.starts_with(name)))
        .map(str::to_owned)
}

/// Types for which any bytes are a value, without padding that is read.
pub(super) trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for launch::Control {}
impl Plain for launch::Group {}

/// The device's primary context, which candle uses as well.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver's contexts may be used by any thread that makes them current.
unsafe impl Send for Context {}
// SAFETY: as above; the driver's functions may be called at once.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn make_current(&self) -> Result<(), EngineError> {
        // SAFETY: the context is retained as long as `self` lives.
        driver("choosing the GPU", unsafe { result::ctx::set_current(self.context) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _turn = exclusive();
        // SAFETY: retained in `Gpu::open`, once. An error at the end is of no use to anybody.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A queue of work in order.
pub(super) type Stream = sys::CUstream;

/// Memory of the GPU, freed when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    context: Arc<Context>,
    address: Address,
    bytes: usize,
}

impl Buffer {
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// The address of value `index`, of `width` bytes each.
    pub(super) fn at(&self, index: usize, width: usize) -> Address {
        debug_assert!(index * width <= self.bytes);
        self.address + (index * width) as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            let _turn = exclusive();
            // SAFETY: allocated in `Gpu::allocate`, freed only here; the driver waits for kernels that use it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

fn download<T: Plain>(
    stream: sys::CUstream,
    buffer: &Buffer,
    offset: usize,
    len: usize,
) -> Result<Vec<T>, EngineError> {
    let mut values = vec![T::default(); len];
    assert!(offset + size_of_val(&*values) <= buffer.bytes, "a download beyond the end of a buffer");
    // SAFETY: the range was checked, any bytes are a `T`, and the copy has ended when this returns.
    driver("copying from the GPU", unsafe {
        result::memcpy_dtoh_async(&mut values, buffer.address + offset as u64, stream)
    })?;
    // SAFETY: the stream lives.
    driver("computing on the GPU", unsafe { result::stream::synchronize(stream) })?;
    Ok(values)
}

/// Copies from the GPU on any thread, in its own stream that waits for no other.
#[derive(Debug)]
pub(super) struct Fetcher {
    context: Arc<Context>,
    stream: sys::CUstream,
}

// SAFETY: the driver takes a stream from any thread that makes its context current.
unsafe impl Send for Fetcher {}

impl Fetcher {
    pub(super) fn new(gpu: &Gpu) -> Result<Self, EngineError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Self { context: Arc::clone(&gpu.context), stream: driver("creating a stream", stream)? })
    }

    /// The first values of a buffer that nothing on the GPU writes to any more.
    pub(super) fn fetch(&self, buffer: &Buffer, len: usize) -> Result<Vec<f32>, EngineError> {
        self.context.make_current()?;
        // The copy to ordinary memory may wait for more than its stream.
        let _turn = exclusive();
        download(self.stream, buffer, 0, len)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            let _turn = exclusive();
            // SAFETY: made in `new`, destroyed once, after all of its copies.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

/// A kernel that takes a `P`.
#[derive(Debug)]
pub(super) struct Kernel<P> {
    function: sys::CUfunction,
    name: &'static str,
    parameters: PhantomData<fn(P)>,
}

/// Kernels, products and convolutions of one step, started together.
#[derive(Debug)]
pub(super) struct Graph {
    context: Arc<Context>,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

impl Graph {
    /// Kernels, copies and other nodes; `None` if the driver does not tell.
    pub(super) fn nodes(&self) -> Option<usize> {
        let mut count = 0;
        // SAFETY: the graph lives; without a list the driver gives the number alone.
        let status = unsafe { sys::cuGraphGetNodes(self.graph, ptr::null_mut(), &mut count) };
        (status == sys::CUresult::CUDA_SUCCESS).then_some(count)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            let _turn = exclusive();
            // SAFETY: both were made in `Gpu::capture`, or are null, and are destroyed only here.
            unsafe {
                if !self.executable.is_null() {
                    let _ = result::graph::exec_destroy(self.executable);
                }
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}

/// A kernel or library call, timed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The layer for which it was started, such as `features.0-3`; `images`, `loss` or `optimizer` for what belongs to no layer.
    pub layer: String,
    /// The kernel's name, or what the library does.
    pub name: String,
    /// Bytes that it reads and writes, each counted once, except for what is no larger than a vector of channels, and a library's
    /// workspace.
    pub bytes: usize,
    /// Seconds on the GPU.
    pub seconds: f64,
}

/// Everything started since [`Gpu::time_each`] began.
#[derive(Debug)]
struct Marks {
    /// Bytes of a map's value.
    element: usize,
    layer: String,
    /// Each span, and an event after it; the seconds are not known yet.
    all: Vec<(Span, Event)>,
}

/// A point in the stream's work.
#[derive(Debug)]
struct Event(sys::CUevent);

impl Event {
    fn new(flags: sys::CUevent_flags) -> Result<Self, EngineError> {
        driver("creating an event", result::event::create(flags)).map(Self)
    }

    /// An event with a timestamp.
    fn clock() -> Result<Self, EngineError> {
        Self::new(sys::CUevent_flags::CU_EVENT_DEFAULT)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// The name of the GPU with that number.
pub(crate) fn card_name(ordinal: usize) -> Result<String, EngineError> {
    driver("starting NVIDIA's driver", result::init())?;
    let device = driver("finding the GPU", result::device::get(ordinal as c_int))?;
    driver("querying the GPU's name", result::device::get_name(device))
}

/// The driver's version, such as 13000; 0 if it does not tell.
pub(super) fn driver_version() -> usize {
    let mut version = 0;
    // SAFETY: the answer's place is ours.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    if status == sys::CUresult::CUDA_SUCCESS { usize::try_from(version).unwrap_or(0) } else { 0 }
}

/// One GPU with a stream of work, for use on the thread that opened it.
#[derive(Debug)]
pub(super) struct Gpu {
    pub(super) stream: Stream,
    /// For work concurrent with `stream`, in recordings.
    pub(super) side: Stream,
    /// Where the side stream begins and where it ends.
    fork: Event,
    join: Event,
    is_recording: Cell<bool>,
    module: sys::CUmodule,
    name: String,
    marks: RefCell<Option<Marks>>,
    /// Seconds that each part of opening took.
    opening: RefCell<Vec<(&'static str, f64)>>,
    // Last, so that it is dropped last.
    pub(super) context: Arc<Context>,
}

impl Gpu {
    /// Opens the GPU with that number.
    ///
    /// # Errors
    /// [`EngineError::Device`] naming the call that failed.
    pub(super) fn open(ordinal: usize) -> Result<Self, EngineError> {
        let start = Instant::now();
        driver("starting NVIDIA's driver", result::init())?;
        let device = driver("finding the GPU", result::device::get(ordinal as c_int))?;
        let name = driver("querying the GPU's name", result::device::get_name(device))?;
        let after_driver = Instant::now();
        let context = {
            let _turn = exclusive();
            // SAFETY: the device is the driver's own answer.
            driver("opening the GPU", unsafe { result::primary_ctx::retain(device) })?
        };
        let context = Arc::new(Context { device, context });
        context.make_current()?;
        let after_context = Instant::now();
        let stream =
            || driver("creating a stream", result::stream::create(result::stream::StreamKind::NonBlocking));
        let mut gpu = Self {
            context,
            stream: stream()?,
            side: stream()?,
            fork: Event::new(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
            join: Event::new(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
            is_recording: Cell::new(false),
            module: ptr::null_mut(),
            name,
            marks: RefCell::new(None),
            opening: RefCell::new(Vec::new()),
        };
        {
            let _turn = exclusive();
            // SAFETY: a fatbin that nvcc made, which says itself how long it is.
            gpu.module = driver("loading the kernels", unsafe {
                result::module::load_data(KERNELS.0.as_ptr().cast::<c_void>())
            })?;
        }
        let seconds = [
            ("driver", (after_driver - start).as_secs_f64()),
            ("context", (after_context - after_driver).as_secs_f64()),
            ("stream and kernels", after_context.elapsed().as_secs_f64()),
        ];
        gpu.opening.borrow_mut().extend(seconds);
        Ok(gpu)
    }

    /// Runs a part of opening, and records how long it took.
    pub(super) fn opening<T>(
        &self,
        part: &'static str,
        open: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let start = Instant::now();
        let opened = open()?;
        self.opening.borrow_mut().push((part, start.elapsed().as_secs_f64()));
        Ok(opened)
    }

    /// Seconds that each part of opening took.
    pub(super) fn opening_seconds(&self) -> Vec<(&'static str, f64)> {
        self.opening.borrow().clone()
    }

    /// The card's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes this GPU current on the calling thread: another engine may have chosen a different one.
    pub(super) fn make_current(&self) -> Result<(), EngineError> {
        self.context.make_current()
    }

    /// The kernel with that name.
    pub(super) fn kernel<P>(&self, name: &'static str) -> Result<Kernel<P>, EngineError> {
        let c_name = CString::new(name).map_err(|error| failed(name, error))?;
        // SAFETY: the module is loaded.
        let function = driver(name, unsafe { result::module::get_function(self.module, c_name) })?;
        Ok(Kernel { function, name, parameters: PhantomData })
    }

    /// Allocates zeroed memory; a few bytes even when `bytes` is 0.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Buffer, EngineError> {
        let bytes = bytes.max(16);
        let what = || format!("allocating {} MiB of GPU memory", bytes.div_ceil(1 << 20));
        let address = {
            let _turn = exclusive();
            // SAFETY: the address is only used through the buffer.
            driver(&what(), unsafe { result::malloc_sync(bytes) })?
        };
        let buffer = Buffer { context: Arc::clone(&self.context), address, bytes };
        // SAFETY: the buffer is as long, and in use by nobody yet.
        driver("clearing memory", unsafe { result::memset_d8_async(address, 0, bytes, self.stream) })?;
        Ok(buffer)
    }

    /// Copies to the GPU, `offset` bytes into the buffer; `values` may be changed afterwards.
    pub(super) fn upload<T: Plain>(
        &self,
        buffer: &Buffer,
        offset: usize,
        values: &[T],
    ) -> Result<(), EngineError> {
        assert!(offset + size_of_val(values) <= buffer.bytes, "an upload beyond the end of a buffer");
        // SAFETY: the range was checked, and the copy has ended when this returns.
        driver("copying to the GPU", unsafe {
            result::memcpy_htod_async(buffer.address + offset as u64, values, self.stream)
        })?;
        self.wait()
    }

    /// Copies from the GPU once all earlier work is done, `offset` bytes into the buffer.
    pub(super) fn download<T: Plain>(
        &self,
        buffer: &Buffer,
        offset: usize,
        len: usize,
    ) -> Result<Vec<T>, EngineError> {
        download(self.stream, buffer, offset, len)
    }

    /// Copies between two buffers of the same length.
    pub(super) fn copy(&self, from: &Buffer, to: &Buffer) -> Result<(), EngineError> {
        assert_eq!(from.bytes, to.bytes, "a copy between buffers of different lengths");
        // SAFETY: both are as long.
        driver("copying on the GPU", unsafe {
            result::memcpy_dtod_async(to.address, from.address, from.bytes, self.stream)
        })
    }

    /// Sets a buffer to zeros.
    pub(super) fn clear(&self, buffer: &Buffer) -> Result<(), EngineError> {
        // SAFETY: the buffer is as long.
        driver("clearing memory", unsafe {
            result::memset_d8_async(buffer.address, 0, buffer.bytes, self.stream)
        })
    }

    /// Waits until all work is done.
    pub(super) fn wait(&self) -> Result<(), EngineError> {
        // SAFETY: the stream lives as long as `self`.
        driver("computing on the GPU", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Starts a kernel.
    pub(super) fn launch<P: Copy + Traffic>(
        &self,
        kernel: &Kernel<P>,
        grid: Grid,
        parameters: P,
    ) -> Result<(), EngineError> {
        let mut parameters = parameters;
        let mut arguments = [ptr::from_mut(&mut parameters).cast::<c_void>()];
        let ([x, y], [columns, rows]) = (grid.blocks, grid.threads);
        // SAFETY: the kernel takes one `P` by value (a test compares sizes with the device's compiler), which the driver copies.
        driver(kernel.name, unsafe {
            result::launch_kernel(
                kernel.function,
                (x, y, 1),
                (columns, rows, 1),
                0,
                self.stream,
                &mut arguments,
            )
        })?;
        self.mark(kernel.name, |element| parameters.bytes(element))
    }

    /// Records what `enqueue` starts, instead of running it. Nothing in it may take the turn of [`exclusive`], which is already taken.
    pub(super) fn capture(
        &self,
        enqueue: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<Graph, EngineError> {
        let outcome = self.record(enqueue);
        match outcome {
            (Ok(()), Ok(graph)) => self.instantiate(graph),
            // Whatever was recorded is dropped.
            (Err(error), graph) => {
                drop(graph);
                Err(error)
            }
            (Ok(()), Err(error)) => Err(error),
        }
    }

    /// The result of the calls, and the recording.
    fn record(
        &self,
        enqueue: impl FnOnce() -> Result<(), EngineError>,
    ) -> (Result<(), EngineError>, Result<Graph, EngineError>) {
        let _turn = exclusive();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        if let Err(error) =
            driver("recording a step", unsafe { result::stream::begin_capture(self.stream, mode) })
        {
            return (Ok(()), Err(error));
        }
        self.is_recording.set(true);
        let outcome = enqueue();
        self.is_recording.set(false);
        // SAFETY: as above; whatever happened, the recording ends here.
        let graph = driver("recording a step", unsafe { result::stream::end_capture(self.stream) });
        let context = Arc::clone(&self.context);
        (outcome, graph.map(|graph| Graph { context, graph, executable: ptr::null_mut() }))
    }

    fn instantiate(&self, mut graph: Graph) -> Result<Graph, EngineError> {
        let made = {
            let _turn = exclusive();
            // SAFETY: the graph was just recorded.
            unsafe { result::graph::instantiate(graph.graph, sys::CUgraphInstantiate_flags(0)) }
        };
        graph.executable = driver("preparing a recorded step", made)?;
        Ok(graph)
    }

    /// In a recording, begins work on the side stream that runs concurrently with what follows on the main one, until [`Gpu::join`].
    /// Otherwise there is no side stream, and it returns `false`: steps are taken call by call only at first, or to be measured.
    pub(super) fn fork(&self) -> Result<bool, EngineError> {
        if self.is_recording.get() {
            self.follow(self.stream, &self.fork, self.side)?;
        }
        Ok(self.is_recording.get())
    }

    /// Makes what follows on the main stream wait for the side stream, if there was one.
    pub(super) fn join(&self) -> Result<(), EngineError> {
        if self.is_recording.get() { self.follow(self.side, &self.join, self.stream) } else { Ok(()) }
    }

    /// Makes what follows on `second` wait for what is on `first`.
    fn follow(&self, first: Stream, event: &Event, second: Stream) -> Result<(), EngineError> {
        // SAFETY: streams and events live as long as `self`.
        driver("ordering two streams", unsafe { result::event::record(event.0, first) })?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        driver("ordering two streams", unsafe { result::stream::wait_event(second, event.0, flags) })
    }

    /// Starts a recorded step.
    pub(super) fn replay(&self, graph: &Graph) -> Result<(), EngineError> {
        // SAFETY: both live.
        driver("starting a recorded step", unsafe { result::graph::launch(graph.executable, self.stream) })
    }

    /// Seconds that `work` takes on the GPU, by its own clock.
    pub(super) fn time(&self, work: impl FnOnce() -> Result<(), EngineError>) -> Result<f64, EngineError> {
        let (start, end) = (Event::clock()?, Event::clock()?);
        self.pass(&start)?;
        work()?;
        self.pass(&end)?;
        self.wait()?;
        elapsed(&start, &end)
    }

    /// Everything that `work` starts, in order, with its seconds on the GPU with nothing else running. A map's value takes `element` bytes.
    pub(super) fn time_each(
        &self,
        element: usize,
        work: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<Vec<Span>, EngineError> {
        let start = Event::clock()?;
        self.pass(&start)?;
        *self.marks.borrow_mut() = Some(Marks { element, layer: String::new(), all: Vec::new() });
        let outcome = work();
        let marks = self.marks.borrow_mut().take().map(|marks| marks.all).unwrap_or_default();
        outcome?;
        self.wait()?;
        let mut before = &start;
        let mut timed = Vec::with_capacity(marks.len());
        for (span, event) in &marks {
            timed.push(Span { seconds: elapsed(before, event)?, ..span.clone() });
            before = event;
        }
        Ok(timed)
    }

    /// Sets the layer for which the next things are started.
    pub(super) fn enter(&self, layer: &str) {
        if let Some(marks) = &mut *self.marks.borrow_mut() {
            layer.clone_into(&mut marks.layer);
        }
    }

    /// Records that something was started; `bytes` computes the bytes that it moves from the bytes of a map's value.
    pub(super) fn mark(&self, name: &str, bytes: impl FnOnce(usize) -> usize) -> Result<(), EngineError> {
        if let Some(marks) = &mut *self.marks.borrow_mut() {
            let event = Event::clock()?;
            self.pass(&event)?;
            let (layer, name) = (marks.layer.clone(), name.to_owned());
            let span = Span { layer, name, bytes: bytes(marks.element), seconds: 0.0 };
            marks.all.push((span, event));
        }
        Ok(())
    }

    fn pass(&self, event: &Event) -> Result<(), EngineError> {
        // SAFETY: stream and event live.
        driver("measuring", unsafe { result::event::record(event.0, self.stream) })
    }
}

/// Seconds between two points that the GPU has passed.
fn elapsed(start: &Event, end: &Event) -> Result<f64, EngineError> {
    // SAFETY: both live.
    let milliseconds = driver("measuring", unsafe { result::event::elapsed(start.0, end.0) })?;
    Ok(f64::from(milliseconds) / 1e3)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.make_current().is_err() {
            return;
        }
        // SAFETY: each was made in `Gpu::open` or is null, is destroyed once, and only after all work is done.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _turn = exclusive();
            if !self.module.is_null() {
                let _ = result::module::unload(self.module);
            }
            let _ = result::stream::destroy(self.side);
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// An address as the libraries take it.
pub(super) fn pointer(address: Address) -> *mut c_void {
    ptr::without_provenance_mut(address as usize)
}
