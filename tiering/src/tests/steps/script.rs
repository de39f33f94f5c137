//! The script: every operation on the catalog and on what lies behind it, each from a machine of its own.

use super::{super::*, Names, machine::*};
use crate::tests::cache::CHUNK;

/// What is done to a machine.
pub struct Case {
    pub name: &'static str,
    /// With fewer changes to the disk the test has lost its meaning.
    pub at_least: u64,
    /// Brings the machine to where it begins.
    pub prepare: fn(&World, Arc<dyn Env>) -> Option<Arc<UnionEnv>>,
    /// A union is open where it begins.
    pub is_open: bool,
    pub run: fn(&Run<'_>),
    /// The catalog before, and after each [change](Run::change): file numbers and objects.
    pub states: &'static [Names],
    /// Files that may be found uncatalogued, for RocksDB to delete, by number.
    pub left_over: &'static [u64],
    /// How many bytes at most came and are lost by a kill. `None`: what it drops it drops on purpose.
    pub lost: Option<u64>,
    pub has_sparse_files: bool,
    /// The pages of 15 that are in the cache before have no reason to go.
    pub keeps_pages: bool,
}

const DEFAULT: Case = Case {
    name: "",
    at_least: 1,
    prepare: machine,
    is_open: true,
    run: |_| (),
    states: &[MACHINE],
    left_over: &[],
    lost: None,
    has_sparse_files: true,
    keeps_pages: false,
};

pub const CASES: &[Case] = &[
    Case {
        name: "restore over nothing",
        at_least: 12,
        prepare: empty,
        run: |run| run.restore(MACHINE),
        states: &[&[], MACHINE],
        ..DEFAULT
    },
    Case {
        name: "restore over kept files",
        keeps_pages: true,
        at_least: 12,
        run: |run| run.restore(&[(12, 1), (13, 2), (15, 4), (17, 6)]),
        states: &[MACHINE, &[(12, 1), (13, 2), (15, 4), (17, 6)]],
        ..DEFAULT
    },
    Case {
        name: "restore over other files",
        keeps_pages: true,
        at_least: 15,
        run: |run| run.restore(&[(12, 20), (13, 21), (15, 4), (99, 22)]),
        states: &[MACHINE, &[(12, 20), (13, 21), (15, 4), (99, 22)]],
        ..DEFAULT
    },
    Case {
        name: "link",
        keeps_pages: true,
        at_least: 15,
        run: |run| {
            run.link(12, 20);
            run.link(14, 21);
            run.sync();
            run.link(13, 22);
            run.link(15, 23);
            run.sync();
        },
        states: &[
            MACHINE,
            &[(12, 1), (13, 2), (14, 3), (15, 4), (16, 5), (20, 1)],
            &[
                (12, 1),
                (13, 2),
                (14, 3),
                (15, 4),
                (16, 5),
                (20, 1),
                (21, 3),
            ],
            &[
                (12, 1),
                (13, 2),
                (14, 3),
                (15, 4),
                (16, 5),
                (20, 1),
                (21, 3),
                (22, 2),
            ],
            &[
                (12, 1),
                (13, 2),
                (14, 3),
                (15, 4),
                (16, 5),
                (20, 1),
                (21, 3),
                (22, 2),
                (23, 4),
            ],
        ],
        left_over: &[20, 22],
        ..DEFAULT
    },
    Case {
        name: "rename",
        keeps_pages: true,
        at_least: 15,
        run: |run| {
            run.rename(12, 20);
            run.rename(14, 21);
            run.sync();
            run.rename(15, 22);
            run.sync();
        },
        states: &[
            MACHINE,
            &[(13, 2), (14, 3), (15, 4), (16, 5), (20, 1)],
            &[(13, 2), (15, 4), (16, 5), (20, 1), (21, 3)],
            &[(13, 2), (16, 5), (20, 1), (21, 3), (22, 4)],
        ],
        left_over: &[12, 20],
        ..DEFAULT
    },
    Case {
        name: "rename over other files",
        keeps_pages: true,
        at_least: 20,
        run: |run| {
            run.rename(13, 99);
            // The catalog lets go of the old 12 before there is a new one.
            let rename = || run.union().rename(&db(&name(15)), &db(&name(12)));
            run.changes(2, rename);
            run.sync();
        },
        states: &[
            MACHINE,
            &[(12, 1), (14, 3), (15, 4), (16, 5), (99, 2)],
            &[(14, 3), (15, 4), (16, 5), (99, 2)],
            &[(12, 4), (14, 3), (16, 5), (99, 2)],
        ],
        left_over: &[12, 13],
        ..DEFAULT
    },
    Case {
        name: "delete",
        at_least: 15,
        run: |run| {
            run.delete(12);
            run.delete(14);
            run.sync();
            run.delete(13);
            run.delete(15);
            run.delete(16);
            run.sync();
        },
        states: &[
            MACHINE,
            &[(13, 2), (14, 3), (15, 4), (16, 5)],
            &[(13, 2), (15, 4), (16, 5)],
            &[(15, 4), (16, 5)],
            &[(16, 5)],
            &[],
        ],
        ..DEFAULT
    },
    Case {
        name: "write anew",
        keeps_pages: true,
        at_least: 20,
        run: |run| {
            for number in [12, 14] {
                // As long as another object of that name.
                run.change(|union| write_file(union, &db(&name(number)), &content(77, 9000)));
            }
            run.sync();
        },
        states: &[
            MACHINE,
            &[(13, 2), (14, 3), (15, 4), (16, 5)],
            &[(13, 2), (15, 4), (16, 5)],
        ],
        left_over: &[12, 14],
        ..DEFAULT
    },
    Case {
        name: "promotion",
        at_least: 30,
        run: |run| run.download(),
        lost: Some(IN_FLIGHT),
        ..DEFAULT
    },
    Case {
        name: "promotion of small files",
        at_least: 10,
        prepare: only_small,
        run: |run| run.download(),
        states: &[&[(16, 5), (17, 8)]],
        lost: Some(IN_FLIGHT),
        ..DEFAULT
    },
    Case {
        name: "promotion under two names",
        at_least: 30,
        prepare: two_names,
        run: |run| run.download(),
        states: &[&[(14, 3), (16, 5), (24, 3), (26, 5)]],
        ..DEFAULT
    },
    Case {
        name: "promotion without sparse files",
        at_least: 20,
        run: |run| run.download(),
        // It begins anew.
        lost: Some(12_001),
        has_sparse_files: false,
        ..DEFAULT
    },
    Case {
        name: "download resumed",
        at_least: 20,
        prepare: half_downloaded,
        run: |run| run.download(),
        lost: Some(IN_FLIGHT),
        ..DEFAULT
    },
    Case {
        name: "warming",
        at_least: 40,
        prepare: one_large,
        run: |run| {
            run.heat(&[31]);
            run.download();
        },
        states: &[&[(31, 31)]],
        lost: Some(HOT as u64),
        ..DEFAULT
    },
    Case {
        name: "upload recorded",
        keeps_pages: true,
        at_least: 7,
        run: |run| {
            let uploads = OWN.map(|(number, seed)| uploaded(&name(number), seed, &bytes_of(seed)));
            run.changes(2, || run.union().record_uploaded(&uploads));
            run.done();
        },
        states: &[
            MACHINE,
            &[(12, 1), (13, 2), (14, 3), (15, 4), (16, 5), (98, 8)],
            &[
                (12, 1),
                (13, 2),
                (14, 3),
                (15, 4),
                (16, 5),
                (98, 8),
                (99, 9),
            ],
        ],
        ..DEFAULT
    },
    Case {
        name: "demotion",
        keeps_pages: true,
        at_least: 5,
        run: |run| {
            for number in [12, 13] {
                run.union().demote(&name(number)).unwrap();
            }
        },
        ..DEFAULT
    },
    Case {
        name: "cache fill",
        keeps_pages: true,
        at_least: 12,
        run: |run| {
            read(run.union(), 14, &[(0, 3000), (5000, 1000)]);
            read(run.union(), 15, &[(0, 3000), (8000, 4001)]);
        },
        lost: Some(IN_FLIGHT),
        ..DEFAULT
    },
    Case {
        name: "eviction and holes",
        at_least: 20,
        prepare: four_chunks,
        run: |run| {
            run.union().set_cache_budget(16 << 10);
            read(
                run.union(),
                30,
                &[0, 2, 0, 1].map(|chunk| (chunk * CHUNK, 700)),
            );
            run.union().set_cache_budget(0);
            run.union().set_cache_budget(u64::MAX);
            read(run.union(), 30, &[(CHUNK, 700)]);
        },
        states: &[&[(30, 30)]],
        ..DEFAULT
    },
    Case {
        name: "disk budget",
        at_least: 7,
        prepare: limited,
        run: |run| {
            run.union().set_disk_budget(20 << 10);
            run.union().set_disk_budget(1 << 30);
            read(run.union(), 13, &[(0, 1000)]);
        },
        ..DEFAULT
    },
    Case {
        name: "open",
        keeps_pages: true,
        at_least: 9,
        prepare: untidy,
        is_open: false,
        run: |run| drop(open(run.world, run.env.clone())),
        ..DEFAULT
    },
    Case {
        name: "discard",
        at_least: 12,
        prepare: |world, env| {
            let union = machine(world, env).unwrap();
            write_file(&*union, &db("CURRENT"), b"MANIFEST-000001").unwrap();
            union.sync_dir(union.db_dir()).unwrap();
            None
        },
        is_open: false,
        run: |run| {
            run.changes(1, || UnionEnv::discard_local(&*run.env, Path::new(ROOT)));
            run.done();
        },
        states: &[MACHINE, &[]],
        left_over: &[12, 13],
        ..DEFAULT
    },
];
