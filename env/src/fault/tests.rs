//! [`FaultEnv`] over a [`MemEnv`]: each effect as its caller sees it, and failing every step of a longer operation.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Effect, Env, EnvExt, ErrorKind, FaultEnv, FaultPlan, MemEnv, Op, RangeRead, ReadHint};

const HINT: ReadHint = ReadHint {
    activity: crate::Activity::Get,
    block: crate::BlockKind::Data,
};

fn path() -> &'static Path {
    Path::new("/f")
}

fn broken() -> (MemEnv, FaultEnv, Arc<FaultPlan>) {
    let (mem, plan) = (MemEnv::new(), FaultPlan::new());
    let env = FaultEnv::new(Arc::new(mem.clone()), plan.clone());
    env.write_atomic(path(), b"0123456789").unwrap();
    (mem, env, plan)
}

#[test]
fn a_torn_append_writes_a_prefix() {
    let (mem, env, plan) = broken();
    let mut file = env.create(path()).unwrap();
    plan.fail_nth(1, Effect::Torn(ErrorKind::NoSpace));
    file.append(b"abc").unwrap();
    let e = file.append(&[b'x'; 1000]).unwrap_err();
    assert_eq!(
        (e.kind(), e.operation(), e.path()),
        (ErrorKind::NoSpace, "append", "/f")
    );
    let bytes = mem.read_to_vec(path(), 2000).unwrap();
    assert!(bytes.starts_with(b"abc") && bytes.len() < 1003);
    assert_eq!(file.len(), bytes.len() as u64);
    file.append(b"y").unwrap();
    assert_eq!(plan.injected(), 1);
}

#[test]
fn a_sparse_file_fails_like_any_other() {
    let (mem, env, plan) = broken();
    let file = env.open_sparse(path()).unwrap();
    plan.fail_nth(1, Effect::Torn(ErrorKind::NoSpace));
    file.write_at(2, b"..").unwrap();
    let e = file.write_at(10, &[b'x'; 1000]).unwrap_err();
    assert_eq!((e.kind(), e.operation()), (ErrorKind::NoSpace, "write_at"));
    let bytes = mem.read_to_vec(path(), 2000).unwrap();
    assert!(bytes.starts_with(b"01..456789") && bytes.len() < 1010);
    plan.fail_from(0, Effect::Short);
    let n = file.read_at(0, &mut [0; 10]).unwrap();
    assert!((1..10).contains(&n));
    plan.set_filter(|op| op == Op::PunchHole, "");
    plan.fail_nth(0, ErrorKind::Unsupported);
    let e = file.punch_hole(0..10).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(file.read_at(0, &mut [0; 10]).is_ok() && env.open_sparse(path()).is_ok());
}

#[test]
fn a_short_read_gives_fewer_bytes_and_at_least_one() {
    let (_, env, plan) = broken();
    let file = env.open_random(path()).unwrap();
    plan.fail_from(0, Effect::Short);
    let mut buf = [0; 10];
    let n = file.read_at(0, &mut buf, HINT).unwrap();
    assert!((1..10).contains(&n) && buf[..n] == b"0123456789"[..n]);
    let n = file.start_read(0, 10, HINT).wait().unwrap().len();
    assert!((1..10).contains(&n));
    assert_eq!(file.read_at(0, &mut buf[..1], HINT).unwrap(), 1);
    assert_eq!(file.read_at(10, &mut buf, HINT).unwrap(), 0);
    // A sequential reader goes on where the short read ended.
    assert_eq!(env.read_to_vec(path(), 10).unwrap(), b"0123456789");
}

#[test]
fn one_range_of_many_fails_alone() {
    let (_, env, plan) = broken();
    let file = env.open_random(path()).unwrap();
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
    ] {
        plan.fail_nth(1, effect);
        let mut bufs = [[0; 3]; 3];
        let mut reads: Vec<RangeRead<'_>> = bufs
            .iter_mut()
            .zip([0, 3, 6])
            .map(|(buf, offset)| RangeRead {
                offset,
                buf,
                result: Ok(0),
            })
            .collect();
        file.read_many(&mut reads, HINT);
        let ok: Vec<bool> = reads.iter().map(|r| r.result.is_ok()).collect();
        assert_eq!(ok, [true, false, true]);
        assert_eq!((&*reads[0].buf, &*reads[2].buf), (&b"012"[..], &b"678"[..]));
        plan.fail_nth(0, effect);
        let e = file.start_read(0, 1, HINT).wait().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
    }
}

#[test]
fn fail_after_carries_the_operation_out() {
    let (mem, env, plan) = broken();
    plan.fail_nth(0, Effect::FailAfter(ErrorKind::TimedOut));
    let e = env.rename(path(), Path::new("/g")).unwrap_err();
    assert!(e.is_temporary());
    assert!(mem.exists(Path::new("/g")).unwrap() && !mem.exists(path()).unwrap());
    plan.fail_nth(0, ErrorKind::TimedOut);
    assert!(env.rename(Path::new("/g"), path()).is_err());
    assert!(mem.exists(Path::new("/g")).unwrap() && !mem.exists(path()).unwrap());
}

#[test]
fn a_delay_delays() {
    let (_, env, plan) = broken();
    plan.set_filter(|op| op == Op::SyncDir, "/");
    plan.fail_nth(0, Effect::Delay(Duration::from_millis(30)));
    let begin = Instant::now();
    env.write_atomic(path(), b"late").unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(30));
    assert_eq!((plan.seen(), plan.injected()), (1, 1));
}

/// The loop for which the plan is made: whichever step of an atomic write fails, the file holds the old bytes or the
/// new ones, also after a power cut, and no temporary file stays unless its removal failed too.
#[test]
fn write_atomic_survives_the_failure_of_each_step() {
    let (old, new) = (b"0123456789", b"the new bytes");
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
        Effect::Torn(ErrorKind::NoSpace),
    ] {
        let mut steps = 0;
        for i in 0.. {
            let (mem, env, plan) = broken();
            plan.fail_nth(i, effect);
            let written = env.write_atomic(path(), new);
            if plan.injected() == 0 {
                written.unwrap();
                break;
            }
            steps += 1;
            let step = plan.injections()[0].op;
            assert!(written.is_err(), "{effect:?} at {step}");
            for seed in 0..20 {
                let after = mem.crash_clone(seed).read_to_vec(path(), 100).unwrap();
                assert!(after == old || after == new, "{effect:?} at {step}");
            }
            let live = mem.read_to_vec(path(), 100).unwrap();
            assert!(live == old || live == new, "{effect:?} at {step}");
            assert_eq!(
                mem.list(Path::new("/")).unwrap().len(),
                1,
                "{effect:?} at {step}"
            );
        }
        let appends_only = matches!(effect, Effect::Torn(_));
        assert_eq!(steps, if appends_only { 1 } else { 7 });
    }
}
