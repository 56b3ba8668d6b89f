// What sessions.ts needs of vscode outside of it: events and cancellation.

export class EventEmitter<T> {
	private readonly listeners = new Set<(e: T) => unknown>();
	readonly event = (f: (e: T) => unknown): { dispose(): void } => {
		this.listeners.add(f);
		return { dispose: () => this.listeners.delete(f) };
	};
	fire(e: T): void { [...this.listeners].forEach((f) => f(e)); }
	dispose(): void { this.listeners.clear(); }
}

export class CancellationTokenSource {
	private readonly emitter = new EventEmitter<void>();
	readonly token = { isCancellationRequested: false, onCancellationRequested: (f: () => void) => this.emitter.event(f) };
	cancel(): void {
		if (this.token.isCancellationRequested) return;
		this.token.isCancellationRequested = true;
		this.emitter.fire();
	}
	dispose(): void { this.emitter.dispose(); }
}
