//! Resource usage of a process, from /proc.

/// Running process, by PID.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// Returns the resident memory in MB.
    pub fn memory_mb(self) -> f64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() * 1024.0 / 1e6
    }

    /// Returns the CPU time in user and kernel mode in seconds.
    pub fn cpu_seconds(self) -> f64 {
        let stat = self.read("stat");
        // The process name may contain spaces, the fields after it do not.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        // USER_HZ is 100, independent of the kernel's timer frequency.
        ticks / 100.0
    }

    /// Returns the number of open files and sockets.
    pub fn open_descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap().count()
    }

    fn read(self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap()
    }
}
