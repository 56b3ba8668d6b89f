import * as vscode from 'vscode';
import { DaemonError } from './daemon';

const muted = 'muted';

/** Messages to the user. Each kind can be muted; what is muted stands in the log. */
export class Notifier {
	constructor(private readonly state: vscode.Memento, private readonly log: vscode.LogOutputChannel) {}

	/** Tells what has gone wrong, with the way out; returns the action that was chosen. */
	async error(kind: string, e: unknown, ...actions: string[]): Promise<string | undefined> {
		const hint = e instanceof DaemonError && e.hint ? ` — ${e.hint}` : '';
		const message = (e instanceof Error ? e.message : String(e)) + hint;
		this.log.error(message);
		return this.show(vscode.window.showErrorMessage, kind, message, ...actions, 'Show Log');
	}

	async warn(kind: string, message: string, ...actions: string[]): Promise<string | undefined> {
		this.log.warn(message);
		return this.show(vscode.window.showWarningMessage, kind, message, ...actions);
	}

	async info(kind: string, message: string, ...actions: string[]): Promise<string | undefined> {
		this.log.info(message);
		return this.show(vscode.window.showInformationMessage, kind, message, ...actions);
	}

	/** Shows messages of all kinds again. */
	async unmute(): Promise<void> {
		const silent = this.state.get<string[]>(muted, []);
		await this.state.update(muted, undefined);
		await vscode.window.showInformationMessage(silent.length > 0 ? 'mirrord: all messages are shown again' : 'mirrord: no message was turned off');
	}

	private async show(
		tell: (message: string, ...items: string[]) => Thenable<string | undefined>, kind: string, message: string, ...actions: string[]
	): Promise<string | undefined> {
		const never = "Don't Show Again";
		const silent = this.state.get<string[]>(muted, []);
		if (silent.includes(kind)) return undefined;
		const chosen = await tell(`mirrord: ${message}`, ...actions, never);
		if (chosen === never) await this.state.update(muted, [...this.state.get<string[]>(muted, []), kind]);
		if (chosen === 'Show Log') this.log.show();
		return chosen;
	}
}
