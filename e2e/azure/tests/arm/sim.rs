//! A simulator in this process, whose clock stands still until a test moves it.

use std::collections::HashMap;
use std::time::Duration;

use azure_simulator::config::{Assigned, Principal, Role, Times};
use azure_simulator::{Clock, Config, State, disks, front, serve, sts};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const DISKS: &str = "2026-03-02";
pub const MACHINES: &str = "2026-04-01";
pub const NETWORK: &str = "2026-01-01";
pub const RESOURCES: &str = "2025-04-01";
pub const AUTHORIZATION: &str = "2022-04-01";
pub const MIB: u64 = 1 << 20;
pub const GROUP: &str = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/hawser";
pub const READER: &str = "55555555-5555-4555-8555-555555555555";
pub const NOBODY: &str = "66666666-6666-4666-8666-666666666666";
pub const NOBODY_OBJECT: &str = "77777777-7777-4777-8777-777777777777";
pub const LINKED: &str = "88888888-8888-4888-8888-888888888888";

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Value,
}

impl Reply {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Refused with this status and code, and with words of this kind.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str, words: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        assert!(self.message().contains(words), "'{words}' is not in '{}'", self.message());
    }

    #[track_caller]
    pub fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

pub struct Sim {
    pub state: State,
    pub base: String,
    http: reqwest::Client,
    _folder: TempDir,
    servers: [JoinHandle<()>; 2],
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// The built-in configuration with other principals, times that are easy to count, and no throttles.
pub fn config() -> Config {
    let mut config = Config {
        times: Times { disk: 10.0, access: 5.0, nic: 2.0, vm: 30.0, power: 20.0, retry_after: 5, copy_mib: 1.0, rbac: 60.0, token: 3600.0 },
        ..Config::default()
    };
    config.throttle.scale = 0.0;
    let principal = |name: &str, id: &str, object: &str, roles| Principal {
        name: name.to_owned(),
        client_id: id.to_owned(),
        object_id: object.to_owned(),
        secret: None,
        federated: Vec::new(),
        roles,
    };
    let role = |name: &str| vec![Assigned { role: name.to_owned(), scope: String::new() }];
    config.roles.push(Role {
        name: "Machines without cards".to_owned(),
        id: "99999999-9999-4999-8999-999999999999".to_owned(),
        actions: vec!["Microsoft.Compute/*".to_owned(), "Microsoft.Network/networkInterfaces/write".to_owned()],
        not_actions: vec!["Microsoft.Compute/disks/beginGetAccess/action".to_owned()],
        data_actions: Vec::new(),
        not_data_actions: Vec::new(),
    });
    config.roles.push(Role {
        name: "Disks alone".to_owned(),
        id: "aaaaaaaa-9999-4999-8999-999999999999".to_owned(),
        actions: vec!["Microsoft.Compute/disks/*".to_owned()],
        not_actions: Vec::new(),
        data_actions: Vec::new(),
        not_data_actions: Vec::new(),
    });
    config.principals.push(principal("reader", READER, "55555555-5555-4555-8555-aaaaaaaaaaaa", role("Reader")));
    config.principals.push(principal("nobody", NOBODY, NOBODY_OBJECT, Vec::new()));
    config.principals.push(principal("linked", LINKED, "88888888-8888-4888-8888-aaaaaaaaaaaa", role("Machines without cards")));
    config
}

impl Sim {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        config.check().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::held("2026-11-23T12:00:00Z".parse::<Timestamp>().unwrap());
        let disks_port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public = format!("https://{}", disks_port.local_addr().unwrap());
        let store = disks::DiskStore::open(folder.path(), &public, clock.clone()).unwrap();
        let sts = sts::Sts::new(&config, clock.clone()).unwrap();
        let state = State::new(config, clock, store, sts);
        let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let key = issued.signing_key.serialize_der().try_into().unwrap();
        let tls = serve::acceptor(vec![issued.cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let serve = |listener, tls, routes| tokio::spawn(async move { match serve::serve(listener, Some(tls), routes).await {} });
        let servers = [serve(listener, tls.clone(), front(&state)), serve(disks_port, tls, disks::router(state.clone()))];
        let root = reqwest::Certificate::from_pem(issued.cert.pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
        Self { state, base, http, _folder: folder, servers }
    }

    pub fn token(&self, client: &str) -> String {
        self.state.sts.token_for(client, "https://management.azure.com").unwrap()
    }

    /// Any request, with any token.
    pub async fn raw(&self, method: &str, path: &str, body: Option<String>, authorization: Option<&str>) -> Result<Reply, reqwest::Error> {
        let url = if path.starts_with("https://") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.http.request(method.parse().unwrap(), url);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let headers =
            answer.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
        let text = answer.text().await?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Ok(Reply { status, headers, body })
    }

    /// Put Page of one sector by a SAS: the status.
    pub async fn write(&self, sas: &str, at: u64) -> u16 {
        let request = self.http.put(format!("{sas}&comp=page")).header("x-ms-version", "2021-12-02").header("x-ms-page-write", "update");
        request.header("x-ms-range", format!("bytes={at}-{}", at + 511)).body(vec![7; 512]).send().await.unwrap().status().as_u16()
    }

    /// Get Blob of one sector by a SAS: the status.
    pub async fn read(&self, sas: &str, at: u64) -> u16 {
        let request = self.http.get(sas).header("x-ms-version", "2021-12-02").header("x-ms-range", format!("bytes={at}-{}", at + 511));
        request.send().await.unwrap().status().as_u16()
    }

    pub async fn call_as(&self, client: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let bearer = format!("Bearer {}", self.token(client));
        self.raw(method, path, body.map(|body| body.to_string()), Some(&bearer)).await.unwrap()
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.call_as(azure_simulator::config::CLIENT, method, path, body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.call("PUT", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, None).await
    }

    pub async fn post(&self, path: &str, body: Option<Value>) -> Reply {
        self.call("POST", path, body).await
    }

    pub fn advance(&self, seconds: u64) {
        self.state.clock.advance(Duration::from_secs(seconds));
    }

    /// Lets an operation end: the body of its status.
    #[track_caller]
    pub fn ended<'a>(&'a self, started: &'a Reply) -> impl Future<Output = Value> + 'a {
        assert!(started.status < 300, "{}", started.body);
        let url = started.header("azure-asyncoperation").to_owned();
        assert!(!url.is_empty(), "no operation: {started:?}");
        async move {
            for _ in 0..100 {
                let status = self.get(&url).await;
                assert_eq!(status.status, 200, "{}", status.body);
                if status.body["status"] != "InProgress" {
                    return status.body;
                }
                self.advance(5);
            }
            panic!("the operation does not end");
        }
    }

    /// Lets an operation succeed.
    pub async fn done(&self, started: &Reply) -> Value {
        let status = self.ended(started).await;
        assert_eq!(status["status"], "Succeeded", "{status}");
        status
    }

    pub async fn put_done(&self, path: &str, body: Value) -> Value {
        let started = self.put(path, body).await;
        self.done(&started).await;
        self.get(path).await.is(200).body.clone()
    }

    pub async fn upload(&self, name: &str, content: u64) -> Value {
        self.put_done(&disk(name), upload_body(content)).await
    }

    /// An Upload disk that has been filled and sealed; its content begins with `text`.
    pub async fn sealed(&self, name: &str, extra: Value) -> Value {
        let mut body = upload_body(20 * MIB);
        merge(&mut body, extra);
        self.put_done(&disk(name), body).await;
        self.grant(name, "Write", 3600).await;
        let key = id(name).to_ascii_lowercase();
        self.state.disks.write(&key, 0, &[name.len() as u8; 512]).unwrap();
        self.state.disks.write(&key, 20 * MIB, &footer(20 * MIB)).unwrap();
        self.revoke(name).await;
        self.get(&disk(name)).await.body
    }

    pub async fn grant(&self, name: &str, access: &str, seconds: u64) -> String {
        let started =
            self.post(&act("disks", name, "beginGetAccess"), Some(json!({ "access": access, "durationInSeconds": seconds }))).await;
        let status = self.done(&started).await;
        status["properties"]["output"]["accessSAS"].as_str().unwrap().to_owned()
    }

    pub async fn revoke(&self, name: &str) {
        let started = self.post(&act("disks", name, "endGetAccess"), None).await;
        self.done(&started).await;
    }

    pub async fn nic(&self, name: &str) -> Value {
        self.put_done(&nic(name), nic_body("production")).await
    }

    pub async fn state_of(&self, name: &str) -> String {
        self.get(&disk(name)).await.is(200).body["properties"]["diskState"].as_str().unwrap().to_owned()
    }
}

/// Puts the fields of `extra` into `body`, at every depth.
pub fn merge(body: &mut Value, extra: Value) {
    match (body, extra) {
        (Value::Object(body), Value::Object(extra)) => {
            for (name, value) in extra {
                merge(body.entry(name).or_insert(Value::Null), value);
            }
        }
        (body, extra) => *body = extra,
    }
}

pub fn with(mut body: Value, extra: Value) -> Value {
    merge(&mut body, extra);
    body
}

pub fn id(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/disks/{name}")
}

pub fn disk(name: &str) -> String {
    format!("{}?api-version={DISKS}", id(name))
}

pub fn snapshot(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/snapshots/{name}?api-version={DISKS}")
}

pub fn act(kind: &str, name: &str, action: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/{kind}/{name}/{action}?api-version={DISKS}")
}

pub fn vm_id(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/{name}")
}

pub fn vm(name: &str) -> String {
    format!("{}?api-version={MACHINES}", vm_id(name))
}

pub fn nic_id(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Network/networkInterfaces/{name}")
}

pub fn nic(name: &str) -> String {
    format!("{}?api-version={NETWORK}", nic_id(name))
}

pub fn subnet(network: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Network/virtualNetworks/{network}/subnets/default")
}

pub fn upload_body(content: u64) -> Value {
    json!({
        "location": "westeurope", "sku": { "name": "Premium_LRS" },
        "properties": { "osType": "Linux", "hyperVGeneration": "V2", "creationData": { "createOption": "Upload", "uploadSizeBytes": content + 512 } },
    })
}

pub fn empty_body(gib: u64) -> Value {
    json!({ "location": "westeurope", "properties": { "diskSizeGB": gib, "creationData": { "createOption": "Empty" } } })
}

pub fn copy_body(source: &str) -> Value {
    json!({ "location": "westeurope", "properties": { "creationData": { "createOption": "Copy", "sourceResourceId": source } } })
}

pub fn snapshot_body(source: &str) -> Value {
    with(copy_body(source), json!({ "properties": { "incremental": true } }))
}

pub fn nic_body(network: &str) -> Value {
    json!({
        "location": "westeurope",
        "properties": { "ipConfigurations": [{ "name": "ipconfig1", "properties": {
            "primary": true, "privateIPAllocationMethod": "Dynamic", "subnet": { "id": subnet(network) },
        } }] },
    })
}

pub fn vm_body(os: &str, data: &[&str], card: &str) -> Value {
    let data: Vec<Value> = data
        .iter()
        .enumerate()
        .map(|(lun, name)| json!({ "lun": lun, "createOption": "Attach", "caching": "None", "managedDisk": { "id": id(name) } }))
        .collect();
    json!({
        "location": "westeurope",
        "properties": {
            "hardwareProfile": { "vmSize": "Standard_D2s_v5" },
            "storageProfile": {
                "osDisk": { "createOption": "Attach", "osType": "Linux", "caching": "ReadWrite", "managedDisk": { "id": id(os) } },
                "dataDisks": data,
            },
            "networkProfile": { "networkInterfaces": [{ "id": nic_id(card), "properties": { "primary": true } }] },
            "diagnosticsProfile": { "bootDiagnostics": { "enabled": true } },
        },
    })
}

/// The footer of a fixed VHD (Virtual Hard Disk Image Format Specification).
pub fn footer(content: u64) -> [u8; 512] {
    let mut footer = [0_u8; 512];
    footer[0..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    footer[16..24].copy_from_slice(&u64::MAX.to_be_bytes());
    footer[28..32].copy_from_slice(b"win ");
    footer[32..36].copy_from_slice(&0x000A_0000_u32.to_be_bytes());
    footer[36..40].copy_from_slice(b"Wi2k");
    footer[40..48].copy_from_slice(&content.to_be_bytes());
    footer[48..56].copy_from_slice(&content.to_be_bytes());
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}
