//! Hosts as containers, on a network of their own that leads nowhere else: driven by `docker`, cut by iptables.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};

/// What `scripts/test-containers` made: Debian, PostgreSQL and the package of walproof.
fn image() -> String {
    std::env::var("WALPROOF_TEST_IMAGE")
        .expect("WALPROOF_TEST_IMAGE names an image of a host: run scripts/test --containers")
}

#[track_caller]
fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn docker(arguments: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(arguments);
    let output = run(command, "");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Removed, with its hosts, when it is dropped.
pub struct Network {
    name: String,
}

impl Network {
    #[track_caller]
    pub fn create() -> Self {
        let name = format!("walproof-{}", std::process::id());
        docker(&["network", "create", "--internal", &name]);
        Self { name }
    }

    /// Where this process is reached from the hosts.
    pub fn gateway(&self) -> Ipv4Addr {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        docker(&["network", "inspect", "-f", format, &self.name]).parse().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.name]).output();
    }
}

/// A machine with PostgreSQL and walproof. Gone, with its disk, when it is dropped.
pub struct Host {
    name: String,
    id: String,
}

impl Host {
    /// `options` are more of `docker run`.
    #[track_caller]
    pub fn start(name: &str, network: &Network, options: &[&str]) -> Self {
        let image = image();
        let network = format!("--network={}", network.name);
        let alias = format!("--network-alias={name}");
        let mut arguments =
            vec!["run", "-d", "--init", "--shm-size=256m", &network, &alias, "--hostname", name];
        arguments.extend(options);
        arguments.extend([&image, "sleep", "infinity"]);
        Self { id: docker(&arguments), name: name.to_owned() }
    }

    fn exec(&self, user: &str, script: &str, input: &str) -> Output {
        let mut command = Command::new("docker");
        command.args(["exec", "-i", "-u", user, &self.id, "bash", "-eu", "-o", "pipefail", "-c", script]);
        run(command, input)
    }

    /// What it prints; it has to succeed.
    #[track_caller]
    pub fn root(&self, script: &str) -> String {
        self.succeed("root", script, "")
    }

    #[track_caller]
    pub fn postgres(&self, script: &str) -> String {
        self.succeed("postgres", script, "")
    }

    #[track_caller]
    fn succeed(&self, user: &str, script: &str, input: &str) -> String {
        let output = self.exec(user, script, input);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {script}: {:?}\n{stdout}\n{stderr}", self.name, output.status);
        stdout.trim().to_owned()
    }

    /// What it says on both streams; it has to exit with `code`.
    #[track_caller]
    pub fn fails(&self, code: i32, script: &str) -> String {
        let output = self.exec("postgres", script, "");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(code), "{}: {script}\n{said}", self.name);
        said
    }

    /// Its standard output, whatever it exits with.
    pub fn ask(&self, script: &str) -> String {
        String::from_utf8_lossy(&self.exec("postgres", script, "").stdout).trim().to_owned()
    }

    #[track_caller]
    pub fn sql(&self, query: &str) -> String {
        self.sql_at(5432, query)
    }

    /// Asked of the server at this port.
    #[track_caller]
    pub fn sql_at(&self, port: u16, query: &str) -> String {
        self.postgres(&format!("psql -XAtq -v ON_ERROR_STOP=1 -p {port} -d postgres <<'SQL'\n{query}\nSQL"))
    }

    /// Goes on in the background, as postgres; what it says is in /tmp/NAME.log.
    #[track_caller]
    pub fn spawn(&self, name: &str, script: &str) {
        let script = format!("exec >>/tmp/{name}.log 2>&1\n{script}");
        docker(&["exec", "-d", "-u", "postgres", &self.id, "bash", "-c", &script]);
    }

    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        self.succeed("root", &format!("umask 077; cat >{path}; chown postgres:postgres {path}"), text);
    }

    /// Packets to and from everywhere vanish, without an answer.
    #[track_caller]
    pub fn cut(&self) {
        self.firewall("INPUT ! -i lo -j DROP");
        self.firewall("OUTPUT ! -o lo -j DROP");
    }

    /// Packets to and from this address vanish.
    #[track_caller]
    pub fn cut_from(&self, address: Ipv4Addr) {
        self.firewall(&format!("INPUT -s {address} -j DROP"));
        self.firewall(&format!("OUTPUT -d {address} -j DROP"));
    }

    /// One packet in `n` to and from everywhere is lost.
    #[track_caller]
    pub fn lose_one_in(&self, n: u32) {
        self.firewall(&format!("INPUT ! -i lo -m statistic --mode nth --every {n} --packet 0 -j DROP"));
        self.firewall(&format!("OUTPUT ! -o lo -m statistic --mode nth --every {n} --packet 0 -j DROP"));
    }

    /// The network is whole again.
    #[track_caller]
    pub fn mend(&self) {
        self.in_network("iptables -F");
    }

    /// A file system of this host, a tmpfs, has so many megabytes from now on.
    #[track_caller]
    pub fn resize(&self, path: &str, megabytes: u32) {
        self.enter("-m", &format!("mount -o remount,size={megabytes}m {path}"));
    }

    #[track_caller]
    fn firewall(&self, rule: &str) {
        self.in_network(&format!("iptables -A {rule}"));
    }

    #[track_caller]
    fn in_network(&self, line: &str) {
        self.enter("-n", line);
    }

    /// A program of this machine in a namespace of the container: a host needs no right to change its own.
    #[track_caller]
    fn enter(&self, namespace: &str, line: &str) {
        let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &self.id]);
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, namespace]).args(line.split(' '));
        let output = run(command, "");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}:\n{}", self.name, self.ask("tail -n 15 /tmp/*.log /var/log/postgresql/*.log"));
        }
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.id]).output();
    }
}
