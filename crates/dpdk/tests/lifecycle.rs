//! One life of EAL, from before its start to its end. Each step needs the one before: one test.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use shunt_dpdk::clock::Tsc;
use shunt_dpdk::{Eal, LcoreId, Mempool, MempoolConfig, PortId, launch, log};
use support::eal_args;

static LINES: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());

#[test]
fn eal_lives_once() {
    nothing_works_before_eal();
    log::set_sink(|level, line| LINES.lock().unwrap().push((level, line.to_owned())));
    let mut args = eal_args();
    args.push("--log-level=lib.eal:debug".to_owned());
    let eal = Eal::init(&args).unwrap();

    eal_starts_once(&eal);
    the_sink_gets_whole_lines(&eal);
    the_clock_runs();
    a_worker_works(&eal);
    a_worker_allocates_and_frees(&eal);

    // SAFETY: the test's pool has no mbuf in use and is not touched again.
    unsafe { eal.cleanup() }.unwrap();
    nothing_works_before_eal();
}

fn nothing_works_before_eal() {
    let error = launch(LcoreId(1), || ()).unwrap_err();
    assert_eq!(error.to_string(), "rte_eal_remote_launch: Invalid argument (errno 22)");
    assert_eq!((PortId::by_name("net_null0"), PortId::count()), (None, 0));
    assert!(Eal::version().starts_with("DPDK "), "{}", Eal::version());
}

fn eal_starts_once(eal: &Eal) {
    let error = Eal::init(&eal_args()).unwrap_err();
    assert_eq!(error.to_string(), "rte_eal_init: Operation already in progress (errno 114)");
    assert_eq!((eal.main_lcore(), eal.worker_lcores()), (LcoreId(0), vec![LcoreId(1)]));
}

fn the_sink_gets_whole_lines(eal: &Eal) {
    let started = std::mem::take(&mut *LINES.lock().unwrap());
    assert!(started.iter().all(|(_, line)| !line.contains('\n')), "{started:#?}");
    let level = |text| {
        let line = started.iter().find(|(_, line)| line.starts_with(text));
        line.map(|(level, _)| *level).unwrap_or_else(|| panic!("no {text} in {started:#?}"))
    };
    // One of a thread that is not yet an lcore, and one of a worker lcore.
    assert_eq!(level("EAL: Detected CPU lcores:"), log::INFO);
    assert_eq!(level("EAL: lcore 1 is ready"), log::DEBUG);

    eal.attach_vdev("net_nonsense0").unwrap_err();
    let failed = std::mem::take(&mut *LINES.lock().unwrap());
    let reason = "EAL: failed to parse device \"net_nonsense0\"".to_owned();
    assert!(failed.contains(&(log::ERROR, reason)), "{failed:#?}");
}

fn the_clock_runs() {
    let (start, cycles) = (Instant::now(), Tsc::now());
    std::thread::sleep(Duration::from_millis(50));
    let (cycles, elapsed) = (Tsc::now() - cycles, start.elapsed());
    let measured = cycles as f64 / Tsc::hz() as f64;
    assert!((measured / elapsed.as_secs_f64() - 1.0).abs() < 0.2, "{measured} s for {elapsed:?}");
}

fn a_worker_works(eal: &Eal) {
    let worker = eal.worker_lcores()[0];
    let (release, released) = channel::<()>();
    let handle = launch(worker, move || released.recv().map_or(6, |()| 7) * 6).unwrap();
    assert_eq!(handle.lcore(), worker);
    let error = launch(worker, || ()).unwrap_err();
    assert_eq!(error.to_string(), "rte_eal_remote_launch: Device or resource busy (errno 16)");
    release.send(()).unwrap();
    assert_eq!(handle.join(), 42);
    // What the work owned is gone by now.
    assert!(release.send(()).is_err());

    let handle = launch(worker, || panic!("a bug in a worker")).unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| handle.join())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug in a worker"));
    assert_eq!(launch(worker, || "and the lcore is well").unwrap().join(), "and the lcore is well");

    for lcore in [eal.main_lcore(), LcoreId(2), LcoreId(u32::MAX)] {
        assert_eq!(launch(lcore, || ()).unwrap_err().errno, 22);
    }
}

/// Lcores, unlike other threads, have a cache in front of the pool.
fn a_worker_allocates_and_frees(eal: &Eal) {
    let pool = Mempool::new(eal, &MempoolConfig::new("worker", 1023)).unwrap();
    let of_worker = pool.clone();
    let work = move || (0..500).map(|_| of_worker.alloc().unwrap()).collect::<Vec<_>>();
    let mbufs = launch(eal.worker_lcores()[0], work).unwrap().join();
    assert_eq!((mbufs.len(), pool.in_use()), (500, 500));
    drop(mbufs);
    assert_eq!(pool.available(), pool.size());
}
