import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;

/** What main.go says, in Java. */
final class Witness {
	public static void main(String[] args) throws Exception {
		String greeting = System.getenv("SHOP_GREETING");
		System.out.println("env " + (greeting == null ? "" : greeting));
		System.out.println("file " + Files.readAllLines(Path.of("/etc/shop/config.yaml")).get(0));
		System.out.println("name " + InetAddress.getByName(args[1]).getHostAddress());

		// Sockets that do not block, and one that does.
		HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + args[1] + "/")).build();
		int status = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding()).statusCode();
		try (SocketChannel s = SocketChannel.open(new InetSocketAddress(args[1], 80))) {
			System.out.println("http " + status + " " + show((InetSocketAddress) s.getRemoteAddress()));
		}

		try (ServerSocket l = new ServerSocket(Integer.parseInt(args[0]))) {
			System.out.println("listening");
			try (Socket c = l.accept()) {
				System.out.println("client " + show((InetSocketAddress) c.getRemoteSocketAddress()));
				BufferedReader in = new BufferedReader(new InputStreamReader(c.getInputStream()));
				for (String line = in.readLine(); !line.isEmpty();) {
					line = in.readLine();
				}
				c.getOutputStream().write("HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nwitness\n".getBytes());
			}
		}
		System.exit(0); // the client's threads are no reason to stay
	}

	private static String show(InetSocketAddress a) {
		return a.getAddress().getHostAddress() + ":" + a.getPort();
	}
}
