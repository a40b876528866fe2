//! Requests to stop. In their own test program, since they go to the whole process.

#![cfg(unix)]

mod common;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{Fake, wait_until};
use pointwise_process::Stop;
use pointwise_study::Options;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;

#[test]
fn a_request_stops_all_runs_and_a_second_interrupt_at_once() {
    // In the background of a shell, Ctrl-C is ignored, and a signal ignored at the start stays ignored.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::default()).unwrap();
    }
    let fake = Fake::new();
    fake.put("hang", "");
    for is_stubborn in [false, true] {
        if is_stubborn {
            fake.put("stubborn", "");
        }
        let _ = fs::remove_file(fake.path("threads"));
        let stop = Stop::watch().unwrap();
        let plan = fake.plan("study", Options { jobs: 2, threads: Some(2), ..Options::default() });
        thread::scope(|scope| {
            let training = scope.spawn(|| fake.train_until(&plan, &stop));
            // The stand-in is ready for a request before it says that it has started.
            wait_until("two runs have started", || fake.lines("threads").len() == 2);
            raise(SIGTERM).unwrap();
            if is_stubborn {
                // However often it is sent, such a request waits for the runs.
                for _ in 0..4 {
                    thread::sleep(Duration::from_millis(100));
                    raise(SIGTERM).unwrap();
                }
                assert!(!training.is_finished());
                wait_until("the runs are killed", || {
                    raise(SIGINT).unwrap();
                    training.is_finished()
                });
            }
            assert_eq!(training.join().unwrap().unwrap(), None);
        });
        let mut stopped = fake.lines("stopped");
        stopped.sort();
        let asked: &[&str] =
            if is_stubborn { &[] } else { &["alexnet_plain-seed42", "alexnet_plain-seed43"] };
        assert_eq!(stopped, asked);
        assert_eq!(fake.lines("calls").len(), 2, "no run is started after the request");
    }
}
