//! Writes the seed corpora: `corpus/TARGET/NUMBER` for every seed of every target. Run by `cargo xtask fuzz --seed-corpora`.

use std::fs;
use std::path::Path;

use understudy_fuzz_targets::TARGETS;

fn main() -> std::io::Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    if corpora.exists() {
        fs::remove_dir_all(&corpora)?;
    }
    for target in TARGETS {
        let folder = corpora.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
