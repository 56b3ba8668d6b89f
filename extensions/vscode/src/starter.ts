import * as vscode from 'vscode';
import { DaemonError, type Daemon } from './daemon';
import type { Launch } from './launch';
import { configFile, environment, merge } from './launch';
import type { Notifier } from './notify';
import { pickTarget } from './picker';
import { code, type Choice, type Client, type Overrides, type Verified } from './protocol';
import type { Running, Sessions } from './sessions';
import type { Settings } from './settings';

/** Who asks for a session. */
export interface Asker {
	key: string; // the same for each run of one launch configuration
	name: string; // for the user
	client: Client;
	configFile?: string;
	target?: string; // that it names itself
	namespace?: string;
}

/** Chooses a target and starts a session, as a launch, a task or a terminal needs it. */
export class Starter {
	private turn: Promise<unknown> = Promise.resolve(); // launches of a compound ask one after the other

	constructor(
		private readonly daemon: Daemon, private readonly settings: Settings,
		private readonly sessions: Sessions, private readonly notify: Notifier,
		private readonly places: string[], // of the editor and its extensions, parts of which run in debuggees
	) {}

	asker(c: Launch, folder: vscode.WorkspaceFolder | undefined): Asker {
		const cwd: unknown = c['cwd'];
		return {
			key: `${folder?.uri.toString() ?? ''}#${c.type}#${c.name}`,
			name: c.name,
			client: this.client(typeof cwd === 'string' ? cwd : undefined, folder, environment(c)),
			configFile: configFile(c),
			target: str(c['target']) && c.type === 'mirrord-go' ? str(c['target']) : undefined,
			namespace: c.type === 'mirrord-go' ? str(c['namespace']) : undefined,
		};
	}

	client(cwd: string | undefined, folder: vscode.WorkspaceFolder | undefined, own: Record<string, string | null> = {}): Client {
		const dir = folder?.uri.fsPath ?? vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? cwd ?? '/';
		return { dir, env: merge(process.env, own), local: this.places };
	}

	choice(a: Pick<Asker, 'client' | 'configFile' | 'target' | 'namespace'>): Choice {
		const { kubeconfig } = this.settings;
		return {
			client: a.client,
			configFile: a.configFile ?? this.settings.configFile,
			overrides: {
				...(kubeconfig ? { kubeconfig } : {}), ...(a.target ? { target: a.target } : {}), ...(a.namespace ? { namespace: a.namespace } : {}),
			},
		};
	}

	/** undefined: the user did not choose, or was told what is wrong. */
	async session(a: Asker, token?: vscode.CancellationToken): Promise<Running | undefined> {
		const before = this.turn;
		let done = () => {};
		this.turn = new Promise<void>((resolve) => { done = resolve; });
		let params: Choice | undefined;
		try {
			await before;
			if (token?.isCancellationRequested) return undefined;
			params = await this.choose(a);
		} catch (e) {
			await this.fail(e);
		} finally {
			done();
		}
		if (!params || token?.isCancellationRequested) return undefined;
		const p = params;
		return vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title: `mirrord: ${a.name}`, cancellable: true }, async (progress, cancel) => {
			const stop = token?.onCancellationRequested(() => both.cancel());
			const both = new vscode.CancellationTokenSource();
			cancel.onCancellationRequested(() => both.cancel());
			progress.report({ message: `connecting to ${p.overrides.target ?? 'the target'}` });
			try {
				return await this.sessions.start(a.key, { ...p, tied: true }, (message) => progress.report({ message }), both.token);
			} catch (e) {
				if (!(e instanceof DaemonError && e.cancelled)) void this.fail(e);
				return undefined;
			} finally {
				stop?.dispose();
				both.dispose();
			}
		});
	}

	/** Lets the user choose the target of the launches to come. */
	async chooseForLater(): Promise<void> {
		const choice = this.choice({ client: this.client(undefined, undefined) });
		try {
			const v = await this.verified(choice);
			const picked = await pickTarget(this.daemon, this.settings, choice, v.steal ?? false, 'For the launches to come', (e) => void this.fail(e));
			if (picked) await this.settings.setTarget(picked.target);
		} catch (e) {
			void this.fail(e);
		}
	}

	async fail(e: unknown): Promise<void> {
		const wrong = e instanceof DaemonError && e.code === code.config;
		const chosen = await this.notify.error('error', e, ...(wrong ? ['Open Configuration'] : []));
		if (chosen === 'Open Configuration') await vscode.commands.executeCommand('mirrord.openConfig');
	}

	private async choose(a: Asker): Promise<Choice | undefined> {
		const choice = this.choice(a);
		const v = await this.verified(choice);
		const { namespace, context, target, steal } = this.settings;
		const chosen = choice.overrides.target ? {} : target ? { target, namespace, context } : v.target ? {} : undefined;
		if (chosen) {
			const targetless = (choice.overrides.target ?? target ?? v.target) === 'targetless';
			return { ...choice, overrides: defined({ ...choice.overrides, ...chosen, steal: steal && !targetless }) };
		}
		const picked = await pickTarget(this.daemon, this.settings, choice, v.steal ?? false, a.name, (e) => void this.fail(e));
		if (!picked) return undefined;
		const stealing = picked.steal && picked.target !== 'targetless';
		return { ...choice, overrides: defined({ ...choice.overrides, ...picked, steal: stealing }) };
	}

	/** What the configuration says; an error if it is wrong. */
	private async verified(choice: Choice): Promise<Verified> {
		const v = await this.daemon.verify(choice);
		const wrong = v.problems.find((p) => !p.warning);
		if (wrong) {
			const at = wrong.line > 0 ? `${wrong.file}:${wrong.line}:${wrong.column}: ` : '';
			throw new DaemonError(code.config, `${at}${wrong.key ? `${wrong.key}: ` : ''}${wrong.message}`);
		}
		return v;
	}
}

function str(v: unknown): string | undefined { return typeof v === 'string' && v !== '' ? v : undefined; }

/** What is said of a choice: false and nothing are the same. */
function defined(o: Overrides): Overrides {
	return Object.fromEntries(Object.entries(o).filter(([, v]) => v)) as Overrides;
}
