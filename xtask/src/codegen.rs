//! Generates the gRPC code from `proto/`, without protoc, and tells whether what is committed is current.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use prost_types::FileDescriptorSet;

const GENERATED: &str = "scheduler-grpc/src/generated";
const DESCRIPTORS: &str = "workload.v1.bin";

/// Generates all files and writes them where they are committed; answers how many.
pub(crate) fn write() -> anyhow::Result<usize> {
    let folder = root().join(GENERATED);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {GENERATED}"))?;
    }
    fs::create_dir_all(&folder)?;
    let files = generate()?;
    for (name, content) in &files {
        fs::write(folder.join(name), content).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(files.len())
}

/// Fails if a committed file differs from what would be generated now, is missing or is left over.
pub(crate) fn check() -> anyhow::Result<()> {
    let committed = read_all(&root().join(GENERATED))?;
    let current = generate()?;
    let differing: Vec<&String> = committed
        .keys()
        .chain(current.keys())
        .filter(|name| committed.get(*name) != current.get(*name))
        .collect();
    if let Some(name) = differing.first() {
        bail!("{GENERATED}/{name} is not what proto/ says; run `cargo xtask codegen`");
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn generate() -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let proto = root().join("proto");
    let mut sources = Vec::new();
    for entry in fs::read_dir(proto.join("workload/v1"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            sources.push(path);
        }
    }
    // The order of a folder is the file system's own.
    sources.sort();
    ensure!(!sources.is_empty(), "there is no .proto file");
    let descriptors = protox::compile(&sources, [&proto])?;

    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".")
        .btree_map(".")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .client_mod_attribute(".", r#"#[cfg(feature = "client")]"#)
        .server_mod_attribute(".", r#"#[cfg(feature = "stubs")]"#)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())?;
    let mut files = read_all(out.path())?;
    files.retain(|name, content| name.starts_with("workload.") && !content.is_empty());
    files.insert(DESCRIPTORS.to_owned(), without_positions(descriptors));
    Ok(files)
}

/// The descriptors for reflection: comments and places in the source are of no use on the wire.
fn without_positions(mut descriptors: FileDescriptorSet) -> Vec<u8> {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors.encode_to_vec()
}

fn read_all(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn committed_code_is_what_the_protos_say() {
        super::check().unwrap();
    }
}
