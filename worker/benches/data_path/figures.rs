//! The figures.

use std::path::Path;

use crate::{
    Setup,
    child::{Outcome, Task},
    data::{self, Areas, Kind, assert_same, fresh, scatter},
    report::{Report, spread},
    rig::{Rig, Source},
    tools::{self, Server, measure},
};

/// A figure by its number.
type Figure = (&'static str, fn(&Setup, &mut Report));

/// All of them.
pub const ALL: [Figure; 6] = [("1", one_core), ("2", two_cores), ("3", copies), ("4", delay), ("5", delta), ("6", memory)];

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

fn middle(samples: impl IntoIterator<Item = f64>) -> f64 {
    spread(&samples.into_iter().collect::<Vec<_>>()).0
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The first cycle of one disk.
fn rig(setup: &Setup, source: Source, capacity: u64, threads: usize) -> Rig {
    Rig { folder: data::fresh(setup, "rig"), cycle: 1, threads, disks: vec![(source, capacity)], areas: None }
}

fn each<T>(setup: &Setup, work: impl FnMut(usize) -> T) -> Vec<T> {
    (0..setup.runs).map(work).collect()
}

fn one_core(setup: &Setup, report: &mut Report) {
    report.head("1  gateway on one core, raw file to log: throughput over that of its parts measured alone");
    for kind in Kind::ALL {
        let path = data::file(setup, kind);
        let runs = each(setup, |_| {
            let parts = Task::Primitives { data: path.clone(), scratch: setup.folder.join("scratch") };
            let parts = measure(&parts, Some("0"));
            let gateway = measure(&Task::Gateway(rig(setup, Source::File(path.clone()), setup.size, 1)), Some("0"));
            (parts, gateway)
        });
        let ratios: Vec<f64> = runs.iter().map(|(parts, gateway)| parts.ideal() / gateway.seconds).collect();
        let speed = |seconds: f64| setup.size as f64 / GIB / seconds;
        let detail = format!(
            "{:.2} of {:.2} GiB/s, log {:.2} of the data",
            middle(runs.iter().map(|(_, gateway)| speed(gateway.seconds))),
            middle(runs.iter().map(|(parts, _)| speed(parts.ideal()))),
            runs[0].1.uploaded as f64 / setup.size as f64
        );
        report.at_least(kind.word(), &ratios, 0.90, &detail);
        let share = |name: &String| {
            let part = middle(runs.iter().map(|(parts, _)| parts.parts[name] * 1e6 / (setup.size as f64 / MIB)));
            format!("{name} {part:.0}")
        };
        let total = middle(runs.iter().map(|(_, gateway)| gateway.seconds * 1e6 / (setup.size as f64 / MIB)));
        let parts: Vec<_> = runs[0].0.parts.keys().map(share).collect();
        report.note(&format!("    microseconds a MiB: {}; gateway {total:.0}", parts.join(", ")));
    }
}

fn two_cores(setup: &Setup, report: &mut Report) {
    if cores() < 2 {
        return report.head("2  two cores over one: this machine has one");
    }
    report.head("2  gateway on two cores over one, raw file to log");
    let path = data::file(setup, Kind::Text);
    let run = |threads, cores| measure(&Task::Gateway(rig(setup, Source::File(path.clone()), setup.size, threads)), Some(cores)).seconds;
    let ratios = each(setup, |_| run(1, "0") / run(2, "0,1"));
    report.at_least(Kind::Text.word(), &ratios, 1.8, "");
}

fn copies(setup: &Setup, report: &mut Report) {
    report.head("3  over programs that copy, from the same nbdkit on a unix socket: throughput over theirs");
    report.note("nbdcopy and qemu-img convert write the bytes to a raw file as they are; the gateway hashes, packs and encrypts them");
    report.note(
        "into the log; the cycle is the gateway and then the applier, which verifies the log and writes a raw file. Process starts count.",
    );
    for kind in Kind::ALL {
        let path = data::file(setup, kind);
        let server = Server::start(&setup.folder.join("nbd.sock"), &path, &[], &[]);
        let (uri, copy) = (server.uri(), setup.folder.join("copy.raw"));
        let program = |name: &str, arguments: &[&str]| {
            let seconds = tools::run(name, arguments);
            assert_same(&path, &copy, std::iter::once(0..setup.size));
            std::fs::remove_file(&copy).unwrap();
            seconds
        };
        let to = copy.to_str().unwrap();
        let runs = each(setup, |n| {
            let nbdcopy = program("nbdcopy", &[&uri, to]);
            let qemu = program("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, to]);
            let rig = rig(setup, Source::Nbd(server.socket()), setup.size, cores());
            let (gateway, _) = tools::timed(|| measure(&Task::Gateway(rig.clone()), None));
            let (apply, _) = tools::timed(|| measure(&Task::Apply(rig.clone()), None));
            if n == 0 {
                assert_same(&path, &rig.replica(0), std::iter::once(0..setup.size));
            }
            (nbdcopy, qemu, gateway, gateway + apply)
        });
        let speed = |seconds: f64| setup.size as f64 / GIB / seconds;
        type Of = fn(&(f64, f64, f64, f64)) -> f64;
        let ours: [(&str, Of); 2] = [("gateway", |run| run.2), ("cycle", |run| run.3)];
        let theirs: [(&str, Of); 2] = [("nbdcopy", |run| run.0), ("qemu-img convert", |run| run.1)];
        for (our, of_ours) in ours {
            for (their, of_theirs) in theirs {
                let ratios: Vec<f64> = runs.iter().map(|run| of_theirs(run) / of_ours(run)).collect();
                let (a, b) = (middle(runs.iter().map(of_ours)), middle(runs.iter().map(of_theirs)));
                let name = format!("{}, {our} / {their}", kind.word());
                report.plain(&name, &ratios, &format!("{:.2} of {:.2} GiB/s", speed(a), speed(b)));
            }
        }
    }
}

fn delay(setup: &Setup, report: &mut Report) {
    report.head("4  gateway from a source that answers each read 2 ms late: throughput over four reads of 1 MiB in flight");
    report.note(
        "Bound by arithmetic: 4 MiB in 2 ms, 1.95 GiB/s. Bound measured: Hawser's NBD client alone, four reads in flight all the time.",
    );
    report.note(
        "Zeroes leave the processor time to spare and show the pipeline; text-like data are bound by zstd and show what is left of it.",
    );
    for (kind, aim) in [(Kind::Zero, Some(0.95)), (Kind::Text, None)] {
        let path = data::file(setup, kind);
        let server = Server::start(&setup.folder.join("nbd.sock"), &path, &["--filter=delay"], &["rdelay=2ms"]);
        let source = || Source::Nbd(server.socket());
        let runs = each(setup, |_| {
            let bound = measure(&Task::Read { source: source(), areas: None }, None);
            let gateway = measure(&Task::Gateway(rig(setup, source(), setup.size, cores())), None);
            assert_eq!((bound.read, gateway.read), (setup.size, setup.size));
            (bound.seconds, gateway.seconds)
        });
        let ratios: Vec<f64> = runs.iter().map(|(bound, gateway)| bound / gateway).collect();
        let speed = |seconds: f64| setup.size as f64 / GIB / seconds;
        let (bound, gateway) = (middle(runs.iter().map(|run| run.0)), middle(runs.iter().map(|run| run.1)));
        let detail = format!("{:.2} of {:.2} GiB/s", speed(gateway), speed(bound));
        match aim {
            Some(aim) => report.at_least(kind.word(), &ratios, aim, &detail),
            None => report.plain(kind.word(), &ratios, &detail),
        }
    }
}

fn delta(setup: &Setup, report: &mut Report) {
    // One per cent in areas of 64 KiB.
    let capacity = 64 << 30;
    let areas = Areas { capacity, length: 64 << 10, count: capacity / 100 / (64 << 10) };
    report.head("5  a delta of 1 %, scattered areas of 64 KiB on a sparse disk of 64 GiB, from nbdkit to a raw replica");
    let path = setup.folder.join("delta.raw");
    scatter(&path, Areas { count: 16, ..areas }, Kind::Random);
    let server = Server::start(&setup.folder.join("nbd.sock"), &path, &[], &[]);
    let first = rig(setup, Source::Nbd(server.socket()), capacity, cores());
    let full = [measure(&Task::Gateway(first.clone()), None), measure(&Task::Apply(first.clone()), None)];
    report.note(&format!("the first, full cycle of the nearly empty disk: {:.2} s", full[0].seconds + full[1].seconds));
    scatter(&path, areas, Kind::Text);
    let runs = each(setup, |n| {
        let bare = measure(&Task::Read { source: Source::Nbd(server.socket()), areas: Some(areas) }, None);
        let delta = Rig { cycle: n as u64 + 2, areas: Some(areas), ..first.clone() };
        let (gateway, apply) = (measure(&Task::Gateway(delta.clone()), None), measure(&Task::Apply(delta), None));
        assert_eq!((bare.read, gateway.read, apply.applied), (areas.bytes(), areas.bytes(), areas.bytes()));
        (bare, gateway, apply)
    });
    assert_same(&path, &first.replica(0), areas.ranges());
    let of = |pick: fn(&(Outcome, Outcome, Outcome)) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
    let gib = |bytes: u64| bytes as f64 / GIB;
    let (_, gateway, apply) = &runs[0];
    report.note(&format!(
        "{} areas: {:.3} GiB read, {:.3} GiB uploaded, {:.3} GiB applied",
        areas.count,
        gib(gateway.read),
        gib(gateway.uploaded),
        gib(apply.applied)
    ));
    report.plain("seconds, gateway", &of(|run| run.1.seconds), "");
    report.plain("seconds, applier", &of(|run| run.2.seconds), "");
    report.plain("seconds, reading alone", &of(|run| run.0.seconds), "Hawser's NBD client, four reads in flight");
    report.plain("reading alone / gateway", &of(|run| run.0.seconds / run.1.seconds), "");
    report.plain("reading alone / cycle", &of(|run| run.0.seconds / (run.1.seconds + run.2.seconds)), "");
    let beyond = |outcome: &Outcome| outcome.beyond_idle() as f64 / MIB;
    report.plain("MiB beyond idle, gateway", &runs.iter().map(|run| beyond(&run.1)).collect::<Vec<_>>(), "");
    report.plain("MiB beyond idle, applier", &runs.iter().map(|run| beyond(&run.2)).collect::<Vec<_>>(), "");
    drop(server);
    std::fs::remove_file(path).unwrap();
    fresh(setup, "rig");
}

fn memory(setup: &Setup, report: &mut Report) {
    report.head("6  peak memory of a first cycle beyond the idle worker (VmHWM), from nbdkit, default limits");
    let one = data::sized(setup, Kind::Random, 1 << 30);
    measure_memory(setup, report, "1 GiB, random", &one, 1 << 30, 1);
    let text = data::sized(setup, Kind::Text, 1 << 30);
    measure_memory(setup, report, "1 GiB, text-like", &text, 1 << 30, 1);
    std::fs::remove_file(&text).unwrap();
    let sparse = setup.folder.join("sparse.raw");
    for kind in [Kind::Random, Kind::Text] {
        let areas = Areas { capacity: 256 << 30, length: 1 << 20, count: 1 << 10 };
        scatter(&sparse, areas, kind);
        measure_memory(setup, report, &format!("256 GiB, 1 GiB of it {}", kind.word()), &sparse, areas.capacity, 1);
        std::fs::remove_file(&sparse).unwrap();
    }
    measure_memory(setup, report, "4 disks of 1 GiB, random", &one, 1 << 30, 4);
}

/// Each of `disks` reads the same file.
fn measure_memory(setup: &Setup, report: &mut Report, name: &str, path: &Path, capacity: u64, disks: usize) {
    let server = Server::start(&setup.folder.join("nbd.sock"), path, &[], &[]);
    let runs = each(setup, |_| {
        let rig = Rig {
            disks: vec![(Source::Nbd(server.socket()), capacity); disks],
            ..rig(setup, Source::Nbd(server.socket()), capacity, cores())
        };
        (measure(&Task::Gateway(rig.clone()), None), measure(&Task::Apply(rig), None))
    });
    fresh(setup, "rig");
    let a_disk = |outcome: &Outcome| outcome.beyond_idle() as f64 / MIB / disks as f64;
    let idle =
        |pick: fn(&(Outcome, Outcome)) -> &Outcome| format!("idle {:.1} MiB", middle(runs.iter().map(|run| pick(run).idle as f64 / MIB)));
    let word = if disks > 1 { ", a disk" } else { "" };
    let (gateway, apply) =
        (runs.iter().map(|run| a_disk(&run.0)).collect::<Vec<_>>(), runs.iter().map(|run| a_disk(&run.1)).collect::<Vec<_>>());
    report.at_most(&format!("{name}: gateway{word}"), &gateway, 32.0, &idle(|run| &run.0));
    report.at_most(&format!("{name}: applier{word}"), &apply, 32.0, &idle(|run| &run.1));
}
