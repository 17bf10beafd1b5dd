//! Crashes at every step of every operation: what was not synced is there in part, sectors of one
//! write may be, and the tree is the one before or the one after.

use super::*;
use std::fs::File;

const SECTOR: u64 = 512;

/// The volumes as a crash would leave them.
struct Shadow {
    files: Vec<File>,
    undo: Vec<(u16, u64, Vec<u8>)>,
}

impl Shadow {
    fn put(&mut self, volume: u16, at: u64, bytes: &[u8]) {
        let file = &self.files[usize::from(volume)];
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, at).unwrap();
        self.undo.push((volume, at, before));
        file.write_all_at(bytes, at).unwrap();
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Write(volume, at, bytes) => self.put(*volume, *at, bytes),
            Step::Zero(volume, at, length) => {
                let zeros = vec![0; usize::try_from(*length).unwrap()];
                self.put(*volume, *at, &zeros);
            }
            Step::Sync(_) => {}
        }
    }

    /// Some of the sectors of a step.
    fn apply_torn(&mut self, step: &Step, random: &mut Random) {
        let Step::Write(volume, at, bytes) = step else {
            return self.apply(step);
        };
        let cut = random.below(3);
        let sectors = bytes.chunks(usize::try_from(SECTOR).unwrap());
        let count = sectors.len() as u64;
        let end = random.below(count + 1);
        for (number, sector) in (0..).zip(sectors) {
            let is_there = match cut {
                0 => number < end,
                1 => number >= end,
                _ => random.below(2) == 0,
            };
            if is_there {
                self.put(*volume, at + number * SECTOR, sector);
            }
        }
    }

    fn revert(&mut self) {
        while let Some((volume, at, bytes)) = self.undo.pop() {
            self.files[usize::from(volume)]
                .write_all_at(&bytes, at)
                .unwrap();
        }
    }
}

/// The place of the last sync of a volume among steps.
fn durable_until(steps: &[Step], volume: u16) -> usize {
    let is_sync = |step: &Step| matches!(step, Step::Sync(synced) if *synced == volume);
    steps.iter().rposition(is_sync).unwrap_or(0)
}

fn volume_of(step: &Step) -> u16 {
    match step {
        Step::Write(volume, ..) | Step::Zero(volume, ..) | Step::Sync(volume) => *volume,
    }
}

/// Crashes within steps at each place, and looks whether the tree is one of these.
fn crash(
    spec: &GroupSpec,
    shadow: &mut Shadow,
    steps: &[Step],
    trees: [&Tree; 2],
    random: &mut Random,
) {
    for end in 0..=steps.len() {
        for kind in 0..3 {
            for (number, step) in steps[..end].iter().enumerate() {
                let is_durable = number < durable_until(&steps[..end], volume_of(step));
                match kind {
                    // A killed process: all that it wrote is there.
                    0 => shadow.apply(step),
                    // A killed process, or a power cut, in the middle of the last write.
                    1 if number + 1 == end => shadow.apply_torn(step, random),
                    1 => shadow.apply(step),
                    // A power cut: of what was not synced, anything may be there.
                    _ if is_durable || random.below(2) == 0 => shadow.apply(step),
                    _ if random.below(3) == 0 => shadow.apply_torn(step, random),
                    _ => {}
                }
            }
            let found = read_with(spec, true);
            let is_one = found == *trees[0] || found == *trees[1];
            assert!(is_one, "step {end} of {}, kind {kind}", steps.len());
            // Going on takes as long as ten looks.
            if random.below(12) == 0 {
                go_on(spec, &found);
            }
            shadow.revert();
        }
    }
}

/// The writer goes on with what the crash left, on a copy.
fn go_on(spec: &GroupSpec, found: &Tree) {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    copy_image(&spec.devices[0], &copy);
    let spec = super::spec(&[&copy]);
    let mut writer = open(&spec).unwrap();
    let mut expected = found.clone();
    match writer.make_directory(BlockId::ROOT, "probe") {
        Ok(_) => {
            writer.sync().unwrap();
            expected.insert("/probe".to_owned(), Thing::Directory);
        }
        Err(error) => assert!(matches!(error, DssError::NoRoom { .. }), "{error}"),
    }
    drop(writer);
    assert_same(&read(&spec), &expected);
}

/// Copies an image with its holes.
fn copy_image(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let status = command.arg("--sparse=always").args([from, to]).status();
    assert!(status.unwrap().success());
}

/// Does one random operation that a crash must not split.
fn operate(writer: &mut GroupWriter, tree: &Tree, random: &mut Random, number: u64) {
    let some = |random: &mut Random, wanted: fn(&Thing) -> bool| {
        pick(tree, random, wanted).map(|path| find(writer, &path))
    };
    let directory = some(random, is_directory);
    let parent = directory.filter(|_| random.below(2) == 0);
    let parent = parent.unwrap_or(BlockId::ROOT);
    let file = some(random, is_file);
    let other = some(random, |thing| !is_directory(thing));
    let name = number.to_string();
    let au_bytes = writer.au_bytes();
    let done = match (random.below(11), file, other) {
        (0, _, _) => writer.make_directory(parent, &name).map(drop),
        (1, _, _) => writer.make_link(parent, &name, "+data/x").map(drop),
        (2 | 3, Some(file), _) => {
            // Behind what is there, near the end of a unit at times.
            let length = writer.length(file).unwrap();
            let gap = [0, 700, au_bytes - 100][usize::try_from(random.below(3)).unwrap()];
            let count = 200 + random.below(3000);
            let bytes = random.bytes(count);
            writer.write_at(file, length + gap, &bytes)
        }
        (4 | 5, Some(file), _) => {
            let length = random.below(2 * au_bytes + 5);
            writer.set_length(file, length)
        }
        (6, Some(file), _) => writer.allocate(file, random.below(4 * au_bytes)),
        (7, _, Some(other)) => writer.remove_file(other),
        (8, Some(file), Some(other)) => {
            let other = writer.node(other).unwrap().clone();
            writer.rename(file, other.parent, &other.name)
        }
        (9, Some(file), _) => writer.rename(file, parent, &name),
        (10, _, _) if directory.is_some() => writer.remove_directory(directory.unwrap()),
        _ => writer.make_file(parent, &name).map(drop),
    };
    if let Err(error) = done {
        let expected = matches!(error, DssError::NoRoom { .. } | DssError::NotEmpty { .. });
        assert!(expected, "{error}");
    }
}

/// Crashes in each of so many operations on a group of so many units.
fn crash_everywhere(units: u64, operations: u64, seed: u64) {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, units);
    let shadow_path = scratch.path().join("shadow");
    copy_image(&path, &shadow_path);
    let shadow_spec = super::spec(&[&shadow_path]);
    let options = File::options().read(true).write(true).clone();
    let mut shadow = Shadow {
        files: vec![options.open(&shadow_path).unwrap()],
        undo: Vec::new(),
    };
    let mut random = Random(seed);
    let mut writer = open(&spec).unwrap();
    let mut before = read(&spec);
    for number in 0..operations {
        operate(&mut writer, &before, &mut random, number);
        writer.sync().unwrap();
        let steps = writer.take_steps();
        let after = read(&spec);
        crash(
            &shadow_spec,
            &mut shadow,
            &steps,
            [&before, &after],
            &mut random,
        );
        for step in &steps {
            shadow.apply(step);
        }
        shadow.undo.clear();
        before = after;
    }
    assert_same(&read(&shadow_spec), &before);
}

#[test]
fn a_crash_at_any_step_leaves_the_tree_before_or_after() {
    crash_everywhere(
        60,
        from_env("GS_DSS_CRASHES", 14),
        from_env("GS_DSS_SEED", 11),
    );
}

#[test]
fn a_crash_at_any_step_while_units_are_used_again_does_so_too() {
    crash_everywhere(
        9,
        from_env("GS_DSS_CRASHES", 14),
        from_env("GS_DSS_SEED", 23),
    );
}
