//! Tests of the transfer loop with a use of it that goes wrong.

use super::*;
use crate::io::File;
use crate::monitor::CollectingMonitor;
use crate::storage::{Posix, Storage};
use std::path::Path;

/// Reads one file again and again and panics over what it read.
struct Panicking {
    file: Arc<File>,
}

impl Panicking {
    fn new(directory: &Path) -> Panicking {
        std::fs::write(directory.join("f"), [7; 100]).unwrap();
        let file = Posix::open(directory)
            .unwrap()
            .open_read(Path::new("f"), false);
        Panicking {
            file: Arc::new(file.unwrap()),
        }
    }

    fn run(&self, items: usize) -> Result<(), PipelineError> {
        let settings = Settings {
            engine: EngineChoice::Sync,
            threads: 2,
            sync: false,
            cancel: Arc::default(),
        };
        transfer(
            self,
            vec![(); items].into_iter(),
            &settings,
            &CollectingMonitor::default(),
        )
    }
}

impl Kind for Panicking {
    type Item = ();
    type File = bool;
    type Extent = ();
    type Done = ();

    fn open(&self, (): ()) -> Result<Option<bool>, PipelineError> {
        Ok(Some(true))
    }

    fn next_extent(&self, first: &mut bool) -> Option<(ReadRange, ())> {
        let range = ReadRange {
            source: self.file.clone(),
            offset: 0,
            length: 100,
            parts: Vec::new(),
            needs_output: false,
        };
        std::mem::replace(first, false).then_some((range, ()))
    }

    fn process(
        &self,
        (): &mut (),
        _attempt: u32,
        _input: &mut Buffer,
        _output: Option<&mut Buffer>,
    ) -> Result<Processed<()>, PipelineError> {
        panic!("as the test wants");
    }

    fn collect(
        &self,
        _file: &mut bool,
        (): (),
        _input: Buffer,
        _output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        Ok(None)
    }

    fn complete(&self, _file: &mut bool) -> Result<(), PipelineError> {
        Ok(())
    }

    fn seal(&self, _file: &mut bool) -> Result<Option<Arc<File>>, PipelineError> {
        Ok(None)
    }

    fn finish(&self, _file: bool) -> Result<(), PipelineError> {
        Ok(())
    }
}

#[test]
#[should_panic(expected = "as the test wants")]
fn a_panic_of_cpu_work_ends_the_run() {
    let scratch = tempfile::tempdir().unwrap();
    let _ = Panicking::new(scratch.path()).run(3);
}
