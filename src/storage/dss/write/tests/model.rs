//! Random operations, on a group and on a plain model of it.

use super::*;

/// Does one random operation on both.
fn step(writer: &mut GroupWriter, model: &mut Tree, random: &mut Random, number: u64) {
    let parent = match random.below(3) {
        0 => String::new(),
        _ => pick(model, random, is_directory).unwrap_or_default(),
    };
    let parent_id = find(writer, &parent);
    let path = format!("{parent}/{number}");
    let name = number.to_string();
    match random.below(13) {
        0 | 1 => {
            writer.make_file(parent_id, &name).unwrap();
            model.insert(path, Thing::File(Vec::new()));
        }
        2 => {
            writer.make_directory(parent_id, &name).unwrap();
            model.insert(path, Thing::Directory);
        }
        3 => {
            let target = format!("+data{path}");
            writer.make_link(parent_id, &name, &target).unwrap();
            model.insert(path, Thing::Link(target));
        }
        4..=6 => write(writer, model, random),
        7 => {
            let Some(path) = pick(model, random, is_file) else {
                return;
            };
            let length = random.below(6_000_000);
            let id = find(writer, &path);
            if let Some(Thing::File(bytes)) = model.get_mut(&path) {
                bytes.resize(usize::try_from(length).unwrap(), 0);
            }
            writer.set_length(id, length).unwrap();
        }
        8 => {
            let Some(path) = pick(model, random, is_file) else {
                return;
            };
            let id = find(writer, &path);
            writer.allocate(id, random.below(5_000_000)).unwrap();
        }
        9 | 10 => {
            let Some(path) = pick(model, random, |thing| !is_directory(thing)) else {
                return;
            };
            let id = find(writer, &path);
            writer.remove_file(id).unwrap();
            model.remove(&path);
        }
        11 => {
            let Some(path) = pick(model, random, is_directory) else {
                return;
            };
            let inside = format!("{path}/");
            let is_empty = !model.keys().any(|path| path.starts_with(&inside));
            let removed = writer.remove_directory(find(writer, &path));
            assert_eq!(removed.is_ok(), is_empty, "{path}: {removed:?}");
            if is_empty {
                model.remove(&path);
            }
        }
        _ => rename(writer, model, random, &parent, &name),
    }
}

fn write(writer: &mut GroupWriter, model: &mut Tree, random: &mut Random) {
    let Some(path) = pick(model, random, is_file) else {
        return;
    };
    let id = find(writer, &path);
    let Some(Thing::File(bytes)) = model.get_mut(&path) else {
        return;
    };
    let offset = random.below(bytes.len() as u64 + 100_000);
    let limit = [100, 10_000, 5_000_000][usize::try_from(random.below(3)).unwrap()];
    let length = 1 + random.below(limit);
    let new = random.bytes(length);
    let (start, end) = (usize::try_from(offset).unwrap(), offset + new.len() as u64);
    let end = usize::try_from(end).unwrap();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(&new);
    writer.write_at(id, offset, &new).unwrap();
}

/// Renames something, sometimes onto something else.
fn rename(
    writer: &mut GroupWriter,
    model: &mut Tree,
    random: &mut Random,
    parent: &str,
    name: &str,
) {
    let paths: Vec<String> = model.keys().cloned().collect();
    if paths.is_empty() {
        return;
    }
    let any = |random: &mut Random| {
        paths[usize::try_from(random.below(paths.len() as u64)).unwrap()].clone()
    };
    let from = any(random);
    let to = match random.below(3) {
        0 => any(random),
        _ => format!("{parent}/{name}"),
    };
    let (to_parent, to_name) = to.rsplit_once('/').unwrap();
    let within = |path: &str, directory: &str| path.starts_with(&format!("{directory}/"));
    let is_directory = |path: &str| matches!(model.get(path), Some(Thing::Directory));
    let fits = match model.get(&to) {
        _ if to == from => true,
        None => true,
        Some(Thing::Directory) => {
            is_directory(&from) && !paths.iter().any(|path| within(path, &to))
        }
        Some(_) => !is_directory(&from),
    };
    let fits = fits && !within(&to, &from);
    let (id, parent_id) = (find(writer, &from), find(writer, to_parent));
    let renamed = writer.rename(id, parent_id, to_name);
    assert_eq!(renamed.is_ok(), fits, "{from} to {to}: {renamed:?}");
    if !fits || from == to {
        return;
    }
    model.remove(&to);
    let moved: Vec<String> = paths
        .into_iter()
        .filter(|path| *path == from || within(path, &from))
        .collect();
    for path in moved {
        let thing = model.remove(&path).unwrap();
        model.insert(format!("{to}{}", &path[from.len()..]), thing);
    }
}

#[test]
fn random_operations_leave_what_a_plain_model_says() {
    let steps = from_env("GS_DSS_STEPS", 600);
    let seed = from_env("GS_DSS_SEED", 99);
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, 1500);
    let mut writer = open(&spec).unwrap();
    let (mut model, mut random) = (Tree::new(), Random(seed));
    for number in 0..steps {
        step(&mut writer, &mut model, &mut random, number);
        if random.below(40) == 0 {
            writer.sync().unwrap();
        }
        if random.below(150) == 0 {
            writer.sync().unwrap();
            drop(writer);
            assert_same(&read(&spec), &model);
            writer = open(&spec).unwrap();
        }
    }
    writer.sync().unwrap();
    drop(writer);
    assert_same(&read(&spec), &model);
    check_elsewhere("check", &[&path]);
}
