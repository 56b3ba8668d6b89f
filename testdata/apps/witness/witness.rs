// What main.go says, in Rust.
use std::io::{BufRead, BufReader, Error, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    println!("env {}", std::env::var("SHOP_GREETING").unwrap_or_default());

    let text = std::fs::read_to_string("/etc/shop/config.yaml")?;
    println!("file {}", text.lines().next().unwrap_or_default());

    let service = (args[2].as_str(), 80);
    let addr = service.to_socket_addrs()?.next().expect("a name has an address");
    println!("name {}", addr.ip());

    let mut s = TcpStream::connect(service)?;
    write!(s, "GET / HTTP/1.0\r\nHost: {}\r\n\r\n", args[2])?;
    let mut line = String::new();
    BufReader::new(&s).read_line(&mut line)?;
    println!("http {} {}", line.split(' ').nth(1).unwrap_or("?"), s.peer_addr()?);

    let l = TcpListener::bind(format!("0.0.0.0:{}", args[1]))?;
    println!("listening");
    let (mut c, client) = l.accept()?;
    println!("client {}", client);
    let mut request = BufReader::new(c.try_clone()?);
    while line != "\r\n" {
        line.clear();
        request.read_line(&mut line)?;
    }
    write!(c, "HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nwitness\n")
}
