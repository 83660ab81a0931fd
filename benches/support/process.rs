//! What /proc tells of a process.

/// A process that runs.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// Resident memory, in MB.
    pub fn memory_mb(self) -> f64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() * 1024.0 / 1e6
    }

    /// The time it has run on any core, in user and kernel mode, in seconds.
    pub fn cpu_seconds(self) -> f64 {
        let stat = self.read("stat");
        // Its name may hold blanks; the fields after it do not.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        // A hundred in a second, whatever the kernel's own clock does.
        ticks / 100.0
    }

    /// How many files and sockets are open.
    pub fn open_descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap().count()
    }

    fn read(self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap()
    }
}
